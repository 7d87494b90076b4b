-- Entries that wait to be uploaded, by where to. due: not to be tried before.
CREATE TABLE uploads (
    place TEXT,
    key BLOB,
    tries INTEGER NOT NULL DEFAULT 0,
    due INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (place, key)
) WITHOUT ROWID;

-- Blobs that are not here and can be fetched: an entry from a remote names them.
CREATE TABLE remote_blobs (hash BLOB PRIMARY KEY, size INTEGER NOT NULL, executable INTEGER NOT NULL) WITHOUT ROWID;

-- Entries that a build used, and when it did so first.
CREATE TABLE builds (build BLOB, key BLOB, seen INTEGER NOT NULL, PRIMARY KEY (build, key)) WITHOUT ROWID;
