//! `kache init`: makes cargo use kache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use toml_edit::{DocumentMut, Item, Table, value};

#[derive(Debug, Args)]
pub struct Init {
    /// Only for the project in the current directory, in its `.cargo/config.toml`
    #[arg(long)]
    project: bool,
    /// Replace another wrapper that is set
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Only add a post-checkout hook to this git repository, that keeps units fresh over checkouts
    #[arg(long, conflicts_with_all = ["project", "force", "dry_run"])]
    git_hook: bool,
}

pub fn run(args: &Init) -> Result<ExitCode> {
    if args.git_hook {
        let path = super::hook::install(&program()?)?;
        println!("{} refreshes mounted targets after a checkout", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let path = if args.project { PathBuf::from(".cargo/config.toml") } else { user_file()? };
    let old = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let program = program()?;
    let Some(new) = with_wrapper(&old, &program, args.force).with_context(|| path.display().to_string())?
    else {
        println!("{} sets kache already", path.display());
        return Ok(ExitCode::SUCCESS);
    };
    if args.dry_run {
        println!("{} would become:\n\n{new}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    write(&path, &new).with_context(|| format!("cannot write {}", path.display()))?;
    println!("cargo now runs compilers through {program} ({})", path.display());
    if let Some(other) = std::env::var_os("RUSTC_WRAPPER") {
        println!("RUSTC_WRAPPER={} is set and comes first; unset it", Path::new(&other).display());
    }
    println!("next: `cargo build` as always; `kache mount` for zero-copy targets; `kache doctor` to check");
    Ok(ExitCode::SUCCESS)
}

/// The configuration with the wrapper set; `None` when it is.
fn with_wrapper(text: &str, program: &str, force: bool) -> Result<Option<String>> {
    let mut doc: DocumentMut = text.parse().context("not valid TOML")?;
    let build = doc.entry("build").or_insert(Item::Table(Table::new()));
    let build = build.as_table_like_mut().context("`build` is not a table")?;
    match build.get("rustc-wrapper").and_then(Item::as_str) {
        Some(set) if set == program => return Ok(None),
        Some(set) if !force && Path::new(set).file_stem().is_none_or(|s| s != "kache") => {
            bail!("rustc-wrapper is {set:?} already; use --force to replace it")
        }
        _ => {}
    }
    build.insert("rustc-wrapper", value(program));
    Ok(Some(doc.to_string()))
}

/// `kache` when the shell would find this very program by that name, else its path.
fn program() -> Result<String> {
    let me = std::env::current_exe().context("cannot find the kache program itself")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join("kache")).find(|p| p.is_file());
    let same = found.and_then(|f| f.canonicalize().ok()).is_some_and(|f| Some(f) == me.canonicalize().ok());
    Ok(if same {
        "kache".to_owned()
    } else {
        me.to_str().context("the program's path is not UTF-8")?.to_owned()
    })
}

fn user_file() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    Ok(home.context("neither CARGO_HOME nor HOME is set")?.join("config.toml"))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut temp = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut temp, text.as_bytes())?;
    temp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let text = "# mine\n[build]\njobs = 2 # few\n\n[net]\nretry = 3\n";
        let new = with_wrapper(text, "kache", false).unwrap().unwrap();
        assert!(
            new.contains("# mine")
                && new.contains("jobs = 2 # few")
                && new.contains("rustc-wrapper = \"kache\"")
        );
        assert_eq!(with_wrapper(&new, "kache", false).unwrap(), None);
    }

    #[test]
    fn another_wrapper_is_not_replaced_silently() {
        let text = "[build]\nrustc-wrapper = \"sccache\"\n";
        assert!(with_wrapper(text, "kache", false).is_err());
        assert!(with_wrapper(text, "kache", true).unwrap().unwrap().contains("\"kache\""));
    }
}
