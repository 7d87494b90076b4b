/* The least that any RUSTC_WRAPPER can take: it hashes the command line, looks at no input, and hard-links what the
 * same command line made before. Wrong as a cache, right as a yardstick.
 *
 * BOUND_STORE names a directory of results, one directory each: outputs, and the recorded stderr. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGES ".stderr" /* no output of rustc begins with a dot */

static uint64_t fnv(uint64_t hash, const char *text) {
    do {
        hash = (hash ^ (unsigned char)*text) * 1099511628211ULL;
    } while (*text++);
    return hash;
}

static int begins(const char *text, const char *head) {
    return strncmp(text, head, strlen(head)) == 0;
}

static int ends(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && strcmp(text + n - m, tail) == 0;
}

/* Hard-links the files of `from` whose names begin with one of two heads into `to`, replacing what is there. */
static void link_all(const char *from, const char *to, const char *head1, const char *head2) {
    char source[4096], dest[4096];
    DIR *dir = opendir(from);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (name[0] == '.' || ends(name, ".o") || !(begins(name, head1) || begins(name, head2))) continue;
        snprintf(source, sizeof source, "%s/%s", from, name);
        snprintf(dest, sizeof dest, "%s/%s", to, name);
        if (link(source, dest)) {
            unlink(dest);
            if (link(source, dest)) perror(dest);
        }
    }
    closedir(dir);
}

/* Copies a stream to one or two others. */
static void pump(int from, int to, int also) {
    char bytes[65536];
    for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;) {
        if (write(to, bytes, n) != n) return;
        if (also >= 0 && write(also, bytes, n) != n) return;
    }
}

int main(int argc, char **argv) {
    const char *store = getenv("BOUND_STORE"), *out = NULL, *name = NULL, *extra = "";
    uint64_t hash = 1469598103934665603ULL;
    if (argc < 2) return 2;
    for (int i = 1; i < argc; i++) {
        hash = fnv(hash, argv[i]);
        const char *found = strstr(argv[i], "extra-filename=");
        if (found) extra = found + strlen("extra-filename=");
        if (i + 1 < argc && !strcmp(argv[i], "--out-dir")) out = argv[i + 1];
        if (i + 1 < argc && !strcmp(argv[i], "--crate-name")) name = argv[i + 1];
    }
    if (!store || !out || !name) {
        execvp(argv[1], argv + 1);
        return 127;
    }
    char result[4000], messages[4096];
    snprintf(result, sizeof result, "%s/%016llx", store, (unsigned long long)hash);
    snprintf(messages, sizeof messages, "%s/%s", result, MESSAGES);

    int recorded = open(messages, O_RDONLY);
    if (recorded >= 0) {
        link_all(result, out, "", "");
        pump(recorded, STDERR_FILENO, -1);
        return 0;
    }

    mkdir(result, 0755);
    recorded = open(messages, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int ends_of_pipe[2];
    if (recorded < 0 || pipe(ends_of_pipe)) return 126;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends_of_pipe[1], STDERR_FILENO);
        close(ends_of_pipe[0]);
        close(ends_of_pipe[1]);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    close(ends_of_pipe[1]);
    pump(ends_of_pipe[0], STDERR_FILENO, recorded);
    int status;
    if (waitpid(child, &status, 0) < 0 || status) {
        unlink(messages);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    char library[512], program[512];
    snprintf(library, sizeof library, "lib%s%s.", name, extra);
    snprintf(program, sizeof program, "%s%s", name, extra);
    link_all(out, result, library, program);
    return 0;
}
