//! The thin binary; everything is in the library.

// It takes the place of malloc too (`override`): most of what is allocated for a message, librdkafka allocates. Without huge
// pages (`no_thp`), of which each would be held for the sake of a few bytes in it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    #[cfg(feature = "failpoints")]
    let _armed = standpipe::failpoints::arm();
    standpipe::cli::main()
}
