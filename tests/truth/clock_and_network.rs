//! What is another answer each time: the clock, random devices, the network. Such scripts run.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::table::{Table, Variant, expands, script};

#[test]
fn the_clock() {
    Table::new()
        .krate(
            "mac",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn now(_: TokenStream) -> TokenStream { \
             format!(\"\\\"{:?}\\\"\", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()).parse().unwrap() }\n",
        )
        .add(script("date", "only_script(); set(prints(&[\"date\"]));"))
        .add(script("date_of_own", "only_script(); set(prints(&[\"date\", \"+%d.%m.%Y %H:%M:%S\"]));"))
        .add(script("by_helper", "only_script(); set(prints(&[\"sh\", \"-c\", \"d=da; ${d}te -R\"]));"))
        .add(script("seconds", "only_script(); set(format!(\"{:?}\", std::time::SystemTime::now()));"))
        .add(script("computed", "only_script(); let s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(); set(format!(\"{:x}\", s.wrapping_mul(0x9e3779b97f4a7c15)));"))
        .add(script("memory", "only_script(); set(text(\"/proc/meminfo\").lines().take(5).collect::<String>());"))
        .add(script("uptime", "only_script(); set(text(\"/proc/uptime\"));"))
        .add(script("in_c", "only_script(); set(c(\"x.c\", &[]));").file("x.c", "#include <stdio.h>\n#include <time.h>\nint main(void) { printf(\"%ld\", (long)time(0)); return 0; }"))
        .add(script("c_macros", "only_script(); set(c(\"x.c\", &[]));").file("x.c", "#include <stdio.h>\nint main(void) { printf(\"%s\", __TIME__); return 0; }"))
        .add(script("awk", "only_script(); set(prints(&[\"awk\", \"BEGIN { srand(); srand(); print srand() }\"]));"))
        .add(expands("by_macro", "now!()"))
        .never_the_same();
}

#[test]
fn chance() {
    Table::new()
        .add(script("urandom", "only_script(); use std::io::Read; let mut b = [0u8; 8]; fs::File::open(\"/dev/urandom\").unwrap().read_exact(&mut b).unwrap(); set(format!(\"{b:?}\"));"))
        .add(script("uuid", "only_script(); set(text(\"/proc/sys/kernel/random/uuid\"));"))
        .add(script("by_tool", "only_script(); set(prints(&[\"sh\", \"-c\", \"od -An -N8 -tx1 /dev/urandom\"]));"))
        .never_the_same();
}

/// A file that never exists means *always* to cargo, in the same target directory, too.
#[test]
fn always() {
    // Each counts in a file of its own: they run at once.
    const COUNT: &str = "let count = format!(\"{}.{}\", env::var(\"COUNTER\").unwrap(), env::var(\"CARGO_PKG_NAME\").unwrap()); \
        let n: u32 = text(&count).parse().unwrap_or(0) + 1; fs::write(&count, n.to_string()).unwrap(); set(n.to_string());";
    Table::new()
        .env("COUNTER", "$T/count")
        .add(script("missing", &format!("println!(\"cargo:rerun-if-changed=/nonexistent/always\"); {COUNT}")))
        .add(script("missing_relative", &format!("println!(\"cargo::rerun-if-changed=always\"); {COUNT}")))
        .always();
}

/// A server that counts who comes.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1]);
            let _ = writeln!(stream, "answer {n}");
        }
    });
    port
}

#[test]
fn the_network() {
    let asks = |name: &str| -> Variant {
        script(
            name,
            "only_script(); use std::io::{Read, Write}; let mut s = std::net::TcpStream::connect((\"127.0.0.1\", env::var(\"PORT\").unwrap().parse().unwrap())).unwrap(); \
             s.write_all(b\"?\").unwrap(); let mut t = String::new(); s.read_to_string(&mut t).unwrap(); set(t);",
        )
    };
    Table::new()
        .env("PORT", &server().to_string())
        .add(asks("by_script"))
        .add(script("by_shell", "only_script(); set(prints(&[\"bash\", \"-c\", \"exec 3<>/dev/tcp/127.0.0.1/$PORT; echo >&3; cat <&3\"]));"))
        .never_the_same();
}
