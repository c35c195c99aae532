//! The `sidelane` command.

fn main() -> std::process::ExitCode {
    sidelane::cli::main()
}
