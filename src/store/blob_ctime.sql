-- With ino and mtime_ns the blob file's identity: mtime_ns can be set back, ctime_ns cannot. links: how many names the
-- file had then. 0, as in rows that are older than these columns, is no file's: such a blob is read once more.
ALTER TABLE blobs ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN links INTEGER NOT NULL DEFAULT 0;
