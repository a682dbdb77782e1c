//! Handles: capabilities looked up by the name that the manifest gives them.

use super::endpoint::Endpoint;
use super::pages::info;
use super::{message, syscall};
use crate::info::text;
use crate::reason;
use portcullis_ipc::image::kind;
use portcullis_ipc::info::SlotName;
use portcullis_ipc::limits::{LOG_READ, PAYLOAD};
use portcullis_ipc::record::{self, STATUS_BYTES};
use portcullis_ipc::syscall::{Id, Status, VcpuId, control};

/// Gives up because the manifest does not grant what the service cannot do without.
pub fn missing(name: &str) -> ! {
    defmt::error!("no capability \"{=str}\": add it to this partition in the manifest", name);
    syscall::abort(reason::MISSING_CAPABILITY)
}

/// Gives up because of a configuration value.
pub fn bad_config(key: &str, wanted: &str) -> ! {
    defmt::error!("configuration \"{=str}\": wanted {=str}; correct the manifest", key, wanted);
    syscall::abort(reason::BAD_CONFIG)
}

fn slot(name: &str, kind: u8) -> Option<&'static SlotName> {
    info().slot(name, kind)
}

/// The endpoint of this name.
pub fn endpoint(name: &str) -> Option<Endpoint> {
    slot(name, kind::ENDPOINT).map(|found| Endpoint::new(found.slot))
}

/// A range of I/O ports.
#[derive(Clone, Copy)]
pub struct Ports(u16);

impl Ports {
    /// The port range of this name.
    pub fn find(name: &str) -> Option<Self> {
        slot(name, kind::PORTS).map(|found| Self(found.slot))
    }

    /// Reads a byte.
    pub fn read(&self, port: u16) -> u8 {
        syscall::port_io(self.0, port, 1, None).value as u8
    }

    /// Writes a byte.
    pub fn write(&self, port: u16, value: u8) {
        syscall::port_io(self.0, port, 1, Some(value.into()));
    }

    /// Writes two neighbouring bytes, the one at `port` first. An instance that ends has written both or none.
    pub fn write_pair(&self, port: u16, [first, second]: [u8; 2]) {
        syscall::port_io(self.0, port, 2, Some(u16::from_le_bytes([first, second]).into()));
    }
}

/// A timer.
#[derive(Clone, Copy)]
pub struct Timer {
    slot: u16,
    /// Notification bits that it sets, low half of the word.
    pub bits: u64,
}

impl Timer {
    /// The timer of this name.
    pub fn find(name: &str) -> Option<Self> {
        let found = slot(name, kind::TIMER)?;
        Some(Self { slot: found.slot, bits: found.detail.into() })
    }

    /// Arms it for an absolute TSC value; 0 disarms it.
    pub fn set(&self, deadline: u64) {
        syscall::timer_set(self.slot, deadline);
    }
}

/// An interrupt line.
#[derive(Clone, Copy)]
pub struct Interrupt {
    slot: u16,
    /// Notification bits that it sets, low half of the word.
    pub bits: u64,
}

impl Interrupt {
    /// The interrupt of this name.
    pub fn find(name: &str) -> Option<Self> {
        let found = slot(name, kind::INTERRUPT)?;
        Some(Self { slot: found.slot, bits: found.detail.into() })
    }

    /// Unmasks the line after its cause was served.
    pub fn acknowledge(&self) {
        syscall::interrupt_ack(self.slot);
    }
}

/// Another partition's notification word.
pub struct Notifier {
    slot: u16,
    generation: u32,
    bits: u64,
}

impl Notifier {
    /// The notification of this name; it sets the bits that the manifest grants.
    pub fn find(name: &str) -> Option<Self> {
        let found = slot(name, kind::NOTIFICATION)?;
        Some(Self { slot: found.slot, generation: 1, bits: found.detail.into() })
    }

    /// Notifies, and once more when the instance it knew is dead.
    pub fn notify(&mut self) {
        let returned = syscall::notify(Id::new(self.slot, self.generation), self.bits);
        if returned.status() == Some(Status::Dead) {
            self.generation = returned.value as u32;
            syscall::notify(Id::new(self.slot, self.generation), self.bits);
        }
    }
}

/// The reading end of the log.
#[derive(Clone, Copy)]
pub struct LogReader(u16);

impl LogReader {
    /// The log capability of this name.
    pub fn find(name: &str) -> Option<Self> {
        slot(name, kind::LOG).map(|found| Self(found.slot))
    }

    /// Lets the core forget the records below sequence `below`, and copies whole ones after them; empty when
    /// there are none.
    pub fn read<'b>(&self, below: u64, buffer: &'b mut [u8; LOG_READ]) -> &'b [u8] {
        let length = syscall::log_read(self.0, below).done().unwrap_or(0);
        message::log_in(length as usize, buffer)
    }
}

/// The wall clock.
#[derive(Clone, Copy)]
pub struct Clock(u16);

impl Clock {
    /// The clock capability of this name.
    pub fn find(name: &str) -> Option<Self> {
        slot(name, kind::CLOCK).map(|found| Self(found.slot))
    }

    /// Sets it to so many nanoseconds since 1970 at a TSC value; `false` when it was set before.
    pub fn set(&self, nanoseconds: u64, tsc: u64) -> bool {
        syscall::clock_set(self.0, nanoseconds, tsc).ok()
    }
}

/// A virtual machine.
#[derive(Clone, Copy)]
pub struct Vm {
    slot: u16,
    /// vCPUs it has.
    pub vcpus: u16,
}

impl Vm {
    /// The VM of this name.
    pub fn find(name: &str) -> Option<Self> {
        let found = slot(name, kind::VM)?;
        Some(Self { slot: found.slot, vcpus: found.detail as u16 })
    }

    /// Slot of the capability.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// The id of vCPU `index`.
    #[inline(always)]
    pub fn vcpu(&self, index: u16) -> VcpuId {
        VcpuId::new(self.slot, index)
    }
}

/// A partition as an object of control.
#[derive(Clone, Copy)]
pub struct Partition {
    slot: u16,
    /// The name that the manifest gives the capability.
    pub name: &'static str,
}

impl Partition {
    /// All partitions that this one controls, in the order of the manifest.
    pub fn all() -> impl Iterator<Item = Self> {
        let slots = info().slots().filter(|slot| slot.kind == kind::PARTITION);
        slots.map(|slot| Self { slot: slot.slot, name: text(&slot.name) })
    }

    /// Its state and last fault record.
    pub fn status(&self) -> Option<record::Status> {
        syscall::partition_status(self.slot).done().ok()?;
        let mut buffer = [0; PAYLOAD];
        postcard::from_bytes(message::received(STATUS_BYTES, &mut buffer)).ok()
    }

    /// Starts it anew from the sealed image; `generation` is the one its status gives.
    pub fn restart(&self, generation: u32) -> bool {
        syscall::partition_control(Id::new(self.slot, generation), control::RESTART).ok()
    }

    /// Gives it up: its callers get `Gone` from now on.
    pub fn abandon(&self, generation: u32) -> bool {
        syscall::partition_control(Id::new(self.slot, generation), control::ABANDON).ok()
    }
}
