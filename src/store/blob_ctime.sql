-- With ino and mtime_ns the blob file's identity: mtime_ns can be set back, ctime_ns cannot. 0, as of rows that are older
-- than this column, is no file's: such a blob is read once more.
ALTER TABLE blobs ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
