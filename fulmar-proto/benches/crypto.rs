//! Sealing and opening of full HP-UDP packets: 1352 bytes of contents, 32 bytes of header.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use fulmar_proto::crypto::{Nonce, Opener, Sealer, Secret, Suite, TAG, hkdf_sha256};

fn main() {
    divan::main();
}

#[divan::bench(args = SUITES)]
fn seal(bencher: Bencher, suite: &Suite) {
    let mut sealer = Sealer::new(*suite, &[7; 32][..suite.key_len()]).expect("a key of its length");
    let mut packet = [0; LEN];
    let mut count = 0_u64;
    bencher.counter(BytesCount::new(LEN)).bench_local(|| {
        count += 1;
        sealer.seal(nonce(count), &[1; 32], black_box(&mut packet))
    });
}

#[divan::bench(args = SUITES)]
fn open(bencher: Bencher, suite: &Suite) {
    let key = &[7; 32][..suite.key_len()];
    let mut sealed = [0; LEN + TAG];
    let tag = Sealer::new(*suite, key).expect("a key of its length").seal(
        nonce(1),
        &[1; 32],
        &mut sealed[..LEN],
    );
    sealed[LEN..].copy_from_slice(&tag);
    let opener = Opener::new(*suite, key).expect("a key of its length");
    bencher
        .counter(BytesCount::new(LEN))
        .with_inputs(|| sealed)
        .bench_local_refs(|packet| assert!(opener.open(nonce(1), &[1; 32], packet).is_some()));
}

/// A packet that the key did not seal.
#[divan::bench(args = SUITES)]
fn open_forged(bencher: Bencher, suite: &Suite) {
    let opener = Opener::new(*suite, &[7; 32][..suite.key_len()]).expect("a key of its length");
    let mut packet = [0; LEN + TAG];
    bencher.bench_local(|| {
        assert!(
            opener
                .open(nonce(1), &[1; 32], black_box(&mut packet))
                .is_none()
        )
    });
}

/// All a session spends on its key at one side.
#[divan::bench]
fn agree(bencher: Bencher) {
    let peer = Secret::from_bytes([9; 32]).public();
    bencher.bench_local(|| {
        let secret = Secret::from_bytes(black_box([7; 32]));
        let (public, shared) = (secret.public(), secret.agree(&peer).expect("an honest key"));
        let mut key = [0; 16];
        hkdf_sha256(shared.as_bytes(), &[0; 4], b"bench", &mut key);
        (public, key)
    });
}

fn nonce(count: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&count.to_be_bytes());
    Nonce(nonce)
}

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
const LEN: usize = 1352;
