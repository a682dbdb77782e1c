//! The core's objects and the fixed tables that hold them (R2). Only data and the checks on it live here;
//! what happens to objects is in `ipc`, `life`, `schedule`, `vcpu` and `syscall`.

pub mod account;
pub mod capability;
pub mod partition;
pub mod table;
pub mod timer;
pub mod vm;

pub use account::Account;
pub use partition::{Partition, Work};
pub use table::Table;
pub use vm::{Vcpu, VcpuState, Vm};
