-- Times are seconds since the Unix epoch unless a name says otherwise. Hashes and keys are 32 raw bytes.

-- Counters: "bytes" (on disk, of all blobs), "gc_spawned", "scanned".
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('bytes', 0), ('gc_spawned', 0), ('scanned', 0);

-- ino and mtime_ns are the file's identity when its bytes were last known to be right; boot is the machine start in
-- which they were, and published when.
CREATE TABLE blobs (
    hash BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    published INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blobs_ino ON blobs (ino);
CREATE TRIGGER blob_added AFTER INSERT ON blobs BEGIN
    UPDATE meta SET value = value + NEW.disk WHERE name = 'bytes';
END;
CREATE TRIGGER blob_removed AFTER DELETE ON blobs BEGIN
    UPDATE meta SET value = value - OLD.disk WHERE name = 'bytes';
END;
CREATE TRIGGER blob_changed AFTER UPDATE OF disk ON blobs WHEN NEW.disk <> OLD.disk BEGIN
    UPDATE meta SET value = value + NEW.disk - OLD.disk WHERE name = 'bytes';
END;

-- Machine starts, and until when kache is known to have worked in each: no power failure was before that.
CREATE TABLE boots (boot INTEGER PRIMARY KEY, active INTEGER NOT NULL);

-- body: 8 bytes of blake3(key, rest), then the rest, a postcard-encoded Entry.
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    record INTEGER NOT NULL,
    crate TEXT NOT NULL,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX entries_record ON entries (record);
-- Apart from entries, because it is written at every hit and those rows are long.
CREATE TABLE uses (entry INTEGER PRIMARY KEY, used INTEGER NOT NULL, hits INTEGER NOT NULL);
CREATE INDEX uses_used ON uses (used);
CREATE TABLE entry_blobs (hash BLOB, entry INTEGER, PRIMARY KEY (hash, entry)) WITHOUT ROWID;
CREATE INDEX entry_blobs_entry ON entry_blobs (entry);

CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    invocation BLOB NOT NULL,
    digest BLOB NOT NULL,
    used INTEGER NOT NULL
);
CREATE UNIQUE INDEX records_key ON records (invocation, digest);
CREATE TABLE record_bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);

-- The stat cache: a file that still looks like this has these bytes.
CREATE TABLE stats (
    dev INTEGER,
    ino INTEGER,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    hash BLOB NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (dev, ino)
) WITHOUT ROWID;

CREATE TABLE facts (
    space TEXT,
    key BLOB,
    value BLOB NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (space, key)
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    crate TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    key TEXT NOT NULL,
    wall_us INTEGER NOT NULL,
    saved_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    link_mode TEXT,
    cwd BLOB NOT NULL
);

-- Blobs that gc must leave alone, by who says so (a mount, a snapshot).
CREATE TABLE pins (hash BLOB, owner TEXT, PRIMARY KEY (hash, owner)) WITHOUT ROWID;
CREATE INDEX pins_owner ON pins (owner);
