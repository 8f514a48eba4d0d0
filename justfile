# The commands worth a name; `just` lists them.

_list:
    @just --list

# everything that must hold before a change lands
ci:
    .ci/run

# the tests, as a newcomer runs them
test:
    ./test

# tests of one crate, quickly: just quick fulmar-proto hpudp
quick crate *filter:
    cargo test -p {{crate}} {{filter}}

# a real file across a bad link
demo *args:
    cargo run --release -- demo {{args}}

# one protocol over a simulated link, in virtual time: just sim hpudp --link satellite --loss 5%
sim *args:
    cargo run --release -- sim {{args}}

# the table of docs/benchmarks.md
bench *args:
    cargo run --release -- bench {{args}}

# format and lint
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings
