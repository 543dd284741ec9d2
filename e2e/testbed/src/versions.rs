//! The versions of everything, from `versions.toml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

const FILE: &str = include_str!("../versions.toml");

/// What `versions.toml` says.
#[derive(Clone, Debug)]
pub struct Versions {
    /// The Kubernetes that is used when none is named: `1.36`.
    pub default: String,
    /// `1.36` → `1.36.3`.
    pub kubernetes: BTreeMap<String, String>,
    components: BTreeMap<String, String>,
}

impl Versions {
    /// Reads the file that was compiled in.
    pub fn load() -> Self {
        match Self::parse(FILE) {
            Ok(versions) => versions,
            Err(error) => unreachable!("versions.toml is tested: {error:#}"),
        }
    }

    /// The full version of a Kubernetes: `1.36` → `1.36.3`; `1.36.3` and `v1.36.3` do too.
    pub fn kubernetes(&self, wanted: &str) -> Result<&str> {
        let wanted = wanted.trim_start_matches('v');
        let known = || self.kubernetes.keys().cloned().collect::<Vec<_>>().join(", ");
        self.kubernetes
            .iter()
            .find(|(short, full)| *short == wanted || *full == wanted)
            .map(|(_, full)| full.as_str())
            .with_context(|| format!("Kubernetes {wanted} is none of those in versions.toml: {}", known()))
    }

    /// The version of another component.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn component(&self, name: &str) -> Result<&str> {
        self.components.get(name).map(String::as_str).with_context(|| format!("versions.toml has no {name}"))
    }

    /// Tables of strings: the small part of TOML that this file needs; anything else is an error.
    fn parse(text: &str) -> Result<Self> {
        let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = name.to_owned();
                continue;
            }
            let value = line.split_once('=').and_then(|(key, value)| {
                let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
                Some((key.trim().trim_matches('"').to_owned(), value.to_owned()))
            });
            let Some((key, value)) = value else { bail!("not `key = \"value\"`: {line}") };
            tables.entry(table.clone()).or_default().insert(key, value);
        }
        let mut top = tables.remove("").unwrap_or_default();
        Ok(Self {
            default: top.remove("default").context("no default")?,
            kubernetes: tables.remove("kubernetes").context("no [kubernetes]")?,
            components: tables.remove("components").context("no [components]")?,
        })
    }
}

/// `1.36.3` → `1.36`, the name of its module list.
pub(crate) fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_what_the_build_asks_for() {
        let versions = Versions::parse(FILE).unwrap();
        for component in ["etcd", "containerd", "runc", "cni-plugins", "coredns", "helm"] {
            versions.component(component).unwrap();
        }
        let full = versions.kubernetes(&versions.default).unwrap();
        assert_eq!(minor(full), versions.default);
        assert_eq!(versions.kubernetes("1.33").unwrap(), versions.kubernetes("v1.33.13").unwrap());
    }

    #[test]
    fn an_unknown_kubernetes_is_answered_with_the_known_ones() {
        let error = Versions::load().kubernetes("1.20").unwrap_err().to_string();
        assert!(error.contains("1.33, 1.36"), "{error}");
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        assert!(Versions::parse("default = \"1\"\n[kubernetes]\nx = 3\n[components]").is_err());
    }
}
