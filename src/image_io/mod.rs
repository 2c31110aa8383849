//! Reading the pictures that people have, and writing the ones they keep.
