//! Who is to blame: the misuse of a system call by its caller. Everything else that can go wrong in a
//! call is a status that the caller must expect.

/// The caller did what no correct program does; it is frozen with this code
/// ([`portcullis_ipc::record::misuse`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misuse(pub u32);
