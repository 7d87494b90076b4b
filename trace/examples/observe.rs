//! `observe [--everything] -- COMMAND ARGUMENT…`: runs a command, and prints its account.

use kache_trace::Observer;
use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    let everything = words.iter().take_while(|word| *word != "--").any(|word| word == "--everything");
    let quiet = words.iter().take_while(|word| *word != "--").any(|word| word == "--quiet");
    let Some(end) = words.iter().position(|word| word == "--").filter(|end| end + 1 < words.len()) else {
        eprintln!("usage: observe [--everything] [--quiet | --plain] -- COMMAND ARGUMENT…");
        return ExitCode::FAILURE;
    };
    let plain = words[..end].iter().any(|word| word == "--plain");
    let words = words.split_off(end + 1);
    if plain {
        // To compare with.
        let status = Command::new(&words[0]).args(&words[1..]).status();
        return if status.is_ok_and(|status| status.success()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let begun = Instant::now();
    let mut observer = Observer::new(&env::temp_dir().join("kache-observe")).expect("an observer");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    observer.prepare(&mut command, everything).expect("a prepared command");
    let prepared = begun.elapsed();
    let status = command.status();
    let ended = Instant::now();
    let account = observer.finish();
    if quiet {
        eprintln!("{prepared:?} before, {:?} after; {} gaps", ended.elapsed(), account.gaps.len());
        return if status.is_ok_and(|status| status.success()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    println!("{status:?}; {prepared:?} before, {:?} after", ended.elapsed());
    for (index, process) in account.processes.iter().enumerate() {
        let all = if process.whole_environment { ", may know the whole environment" } else { "" };
        let parent = process.parent.map_or(String::new(), |parent| format!(" of {parent}"));
        println!("process {index}{parent}: {}{all}: {:?}", process.program.display(), process.argv);
    }
    let object = |index: u32| {
        let path = &account.objects[index as usize];
        path.file_name().map_or("?".into(), |name| name.to_string_lossy().into_owned())
    };
    for access in &account.accesses {
        println!(
            "{:>8} {} {} [{}]",
            format!("{:?}", access.how),
            access.process,
            access.path.display(),
            object(access.object)
        );
    }
    for variable in &account.variables {
        println!("variable {} {:?} [{}]", variable.process, variable.name, object(variable.object));
    }
    for call in &account.calls {
        println!("    call {} {:?} [{}]", call.process, call.what, object(call.object));
    }
    for gap in &account.gaps {
        println!("     gap {gap}");
    }
    println!(
        "{} accesses, {} variables, {} calls, {} gaps",
        account.accesses.len(),
        account.variables.len(),
        account.calls.len(),
        account.gaps.len()
    );
    ExitCode::SUCCESS
}
