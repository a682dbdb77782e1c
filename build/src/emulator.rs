//! Starts an emulator with an image and ends it in its own time limit.
