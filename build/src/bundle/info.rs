//! The information page of a partition.

use super::{Inputs, Placed, PlacedBlob, name24};
use crate::manifest::{Object, Problem, System};
use portcullis_ipc::info::{Blob, INFO_MAGIC, InfoPage, SlotName, config_offset};
use portcullis_ipc::layout::PAGE;
use zerocopy::{FromZeros, IntoBytes};

/// The page of partition `index`.
pub fn page(system: &System, index: usize, inputs: &Inputs, placed: &Placed) -> Vec<u8> {
    let mut page = InfoPage::new_zeroed();
    let mut bytes = vec![0; PAGE];
    let Some(partition) = system.partitions.get(index) else {
        return bytes;
    };
    page.magic = INFO_MAGIC;
    page.partition = index as u32;
    page.name = name24(&partition.name);
    (page.heap, page.heap_bytes) = placed.heap;
    page.state_bytes = u64::from(partition.state_pages) * PAGE as u64;
    let served = system.vms.iter().find(|vm| usize::from(vm.vmexit) == index);
    page.guest_bytes = served.map_or(0, |vm| vm.memory_pages * PAGE as u64);
    page.state_version = partition.state_version;
    page.slot_count = partition.capabilities.len() as u32;
    page.blob_count = inputs.blobs.len() as u32;
    for ((to, blob), placed) in page.blobs.iter_mut().zip(&partition.blobs).zip(&placed.blobs) {
        let PlacedBlob { address, bytes, checksum } = *placed;
        *to = Blob { name: name24(&blob.name), address, bytes, checksum, reserved: 0 };
    }
    for (slot, (to, capability)) in page.slots.iter_mut().zip(&partition.capabilities).enumerate() {
        *to = SlotName {
            name: name24(&capability.name),
            kind: capability.object.kind(),
            reserved: 0,
            slot: slot as u16,
            detail: detail(system, &capability.object),
        };
    }
    page.config_bytes = placed.config.len() as u32;
    let page = page.as_bytes();
    bytes[..page.len()].copy_from_slice(page);
    let offset = config_offset(partition.capabilities.len());
    bytes[offset..offset + placed.config.len()].copy_from_slice(placed.config.as_bytes());
    bytes
}

/// The configuration text of partition `index`, which fits its page.
pub fn config(system: &System, index: usize) -> Result<String, Problem> {
    let Some(partition) = system.partitions.get(index) else {
        return Ok(String::new());
    };
    let text = format!("{}{}", partition.config, platform_lines(system, index));
    let room = PAGE - config_offset(partition.capabilities.len());
    if text.len() <= room {
        return Ok(text);
    }
    let what = "bytes of configuration text, beside the names of the partition's capabilities";
    Err(Problem::Limit { what, wanted: text.len() as u64, limit: room as u64 })
}

/// What the slot's name cannot say: notification bits, vCPUs of a VM, index of a partition.
fn detail(system: &System, object: &Object) -> u32 {
    match *object {
        Object::Notification { bits, .. } | Object::Timer { bits, .. } | Object::Interrupt { bits, .. } => bits as u32,
        Object::Vm { vm, .. } => system.vms.get(usize::from(vm)).map_or(0, |vm| vm.vcpus.len() as u32),
        Object::Partition { partition, .. } => partition.into(),
        _ => 0,
    }
}

/// The VM's switches, for the partitions that serve it.
fn platform_lines(system: &System, index: usize) -> String {
    let mut lines = String::new();
    for vm in &system.vms {
        if usize::from(vm.vmexit) == index || vm.port.map(usize::from) == Some(index) {
            let (name, port, identity) = (&vm.name, vm.port.is_some(), vm.identity);
            lines
                .push_str(&format!("vm.name={name}\nvm.port={port}\nvm.identity={identity}\nvm.xcr0={:#x}\n", vm.xcr0));
            lines.push_str(&format!("vm.platform={}\nvm.hardware={}\n", vm.platform, vm.hardware_version));
        }
    }
    lines
}
