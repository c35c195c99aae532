//! What a command costs, in figures that mean the same on every machine where
//! that is possible: allocations, doorbells, instructions; and where it is not,
//! two ways side by side.
//!
//! `make bench` prints a table and writes the same as JSON. All of it runs in
//! this process: a target with modelled SSDs and a null backend, and a host,
//! joined by the software adapter over loopback; and two software adapters alone,
//! beside plain UDP sockets, to which `--wire` keeps it. Under `--probe` it is a small
//! program for valgrind to count instructions of, which it starts itself.

mod counting;
mod figures;
mod instructions;
mod load;
mod path;
mod stage;
mod threads;
mod wire;

use std::path::PathBuf;

use anyhow::Context;

use figures::Figures;

fn main() -> anyhow::Result<()> {
    let mut json = None;
    let mut only_wire = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(arguments.next().context("--json PATH")?)),
            "--probe" => return instructions::probe(&mut arguments),
            "--wire" => only_wire = true,
            // Cargo's own.
            "--bench" => {}
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    let mut figures = Figures::default();
    if !only_wire {
        path::measure(&mut figures)?;
    }
    wire::measure(&mut figures)?;
    instructions::measure(&mut figures)?;
    print!("{figures}");
    if let Some(path) = json {
        std::fs::write(&path, figures.json()).with_context(|| path.display().to_string())?;
        println!("The same is in {}.", path.display());
    }
    Ok(())
}
