//! The overlay file system: a real directory underneath (the upper), immutable blobs as views on top.
