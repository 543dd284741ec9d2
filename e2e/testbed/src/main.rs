//! `pollux-testbed`: a real Kubernetes on this machine, for people.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
