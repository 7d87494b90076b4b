-- Snapshots of target directories. Their blobs are in pins, under the owner 'snapshot <id>'.
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    identity BLOB NOT NULL,
    workspace BLOB NOT NULL,
    target BLOB NOT NULL,
    commit_id TEXT NOT NULL,
    toolchain TEXT NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    root BLOB NOT NULL,
    units INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE INDEX snapshots_identity ON snapshots (identity);

-- Forks that were made, and what each saved.
CREATE TABLE forks (
    id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    snapshot TEXT NOT NULL,
    dir BLOB NOT NULL,
    fresh INTEGER NOT NULL,
    saved_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
