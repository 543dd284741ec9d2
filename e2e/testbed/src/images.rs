//! Images: written for a single static program (nothing else is needed for pause and CoreDNS), and given to nodes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use serde_json::json;

use crate::layout::Layout;
use crate::process::run;

const BLOCK: usize = 512;

/// Writes an archive (as `docker save` does) of an image with one static program in its root, which is its entry point.
pub fn write_image(program: &Path, name: &str, to: &Path) -> Result<()> {
    let file = program.file_name().context("a program has a name")?.to_string_lossy();
    let content = fs::read(program).with_context(|| format!("no {}", program.display()))?;
    let layer = tar(&[(&file, 0o755, &content)])?;
    let layer_digest = hex(&layer);
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [format!("/{file}")] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    }))?;
    let (config_name, layer_name) = (format!("{}.json", hex(&config)), format!("{layer_digest}.tar"));
    let manifest = serde_json::to_vec(&json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]))?;
    let archive =
        tar(&[(&layer_name, 0o644, &layer), (&config_name, 0o644, &config), ("manifest.json", 0o644, &manifest)])?;
    crate::paths::write(to, archive)
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A POSIX tar of plain files owned by root, without times: the same content gives the same bytes.
fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (name, mode, content) in files {
        ensure!(name.len() < 100, "{name} is too long for a tar");
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        "); // the checksum counts itself as spaces
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Ok(out)
}

/// Imports archives (OCI or Docker) into a node's containerd.
pub(crate) fn import(layout: &Layout, node: u8, archives: &[PathBuf]) -> Result<()> {
    for archive in archives {
        // Local: unpacked by ctr itself; the transfer service would ask for a snapshotter's plugin of its own.
        run(layout.ctr(node).args(["images", "import", "--local"]).arg(archive))
            .with_context(|| format!("node-{node} does not take {}", archive.display()))?;
    }
    Ok(())
}

/// The archives that every node needs.
pub(crate) fn own(bin: &Path) -> Vec<PathBuf> {
    ["pause.tar", "coredns.tar"].map(|file| bin.join("images").join(file)).to_vec()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_archive_is_a_tar_that_tar_itself_reads() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("hello");
        fs::write(&program, vec![7; 1000]).unwrap();
        let archive = folder.path().join("image.tar");
        write_image(&program, "localhost/test/hello:1", &archive).unwrap();

        let listed = run(Command::new("tar").arg("-xvf").arg(&archive).arg("-C").arg(folder.path())).unwrap();
        assert!(listed.contains("manifest.json"), "{listed}");
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("manifest.json")).unwrap()).unwrap();
        let layer = folder.path().join(manifest[0]["Layers"][0].as_str().unwrap());
        let inner = run(Command::new("tar").arg("-tvf").arg(layer)).unwrap();
        assert!(inner.contains("-rwxr-xr-x 0/0") && inner.contains("1000") && inner.contains("hello"), "{inner}");
    }
}
