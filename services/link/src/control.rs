//! Control requests from the host: a schema key, little endian, and the request's postcard form; back
//! come the key, a byte that is 1 for a refusal, and the postcard form of the answer.

use arrayvec::ArrayVec;
use portcullis_ipc::proto::health::{Health, Healthy};
use portcullis_ipc::proto::{Refusal, Request};
use serde::Serialize;

/// Bytes of a reply at most.
pub const REPLY: usize = 64;

/// Answers the request in `payload`. `healthy` is what this service says about itself.
pub fn answer(payload: &[u8], healthy: &Healthy) -> ArrayVec<u8, REPLY> {
    let Some((key, _body)) = payload.split_first_chunk::<8>() else {
        return reply([0; 8], true, &Refusal::Malformed);
    };
    match u64::from_le_bytes(*key) {
        Health::KEY => reply(*key, false, healthy),
        _ => reply(*key, true, &Refusal::Unsupported),
    }
}

fn reply<T: Serialize>(key: [u8; 8], refused: bool, value: &T) -> ArrayVec<u8, REPLY> {
    let mut body = [0; REPLY - 9];
    let body = postcard::to_slice(value, &mut body).map_or(&[][..], |used| used);
    let mut bytes = ArrayVec::new();
    // Key, flag and body fit: the body's buffer is what the reply leaves for it.
    bytes.extend(key);
    bytes.push(refused.into());
    bytes.extend(body.iter().copied());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Healthy = Healthy { generation: 2, state_version: 1, served: u64::MAX };

    #[test]
    fn the_health_request_is_answered() {
        let bytes = answer(&Health::KEY.to_le_bytes(), &HEALTHY);
        assert_eq!(bytes[..9], [&Health::KEY.to_le_bytes()[..], &[0]].concat());
        assert_eq!(postcard::from_bytes(&bytes[9..]), Ok(HEALTHY));
    }

    #[test]
    fn an_unknown_or_cut_request_is_refused_with_its_key() {
        let bytes = answer(&[7; 20], &HEALTHY);
        assert_eq!(bytes[..9], [7, 7, 7, 7, 7, 7, 7, 7, 1]);
        assert_eq!(postcard::from_bytes(&bytes[9..]), Ok(Refusal::Unsupported));
        let bytes = answer(&[7; 7], &HEALTHY);
        assert_eq!(postcard::from_bytes(&bytes[9..]), Ok(Refusal::Malformed));
    }
}
