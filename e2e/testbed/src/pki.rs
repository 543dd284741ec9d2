//! Certificates: one authority per cluster, P-256 keys, and kubeconfigs.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate authority, its files in one folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; writes `ca.crt`, `ca.key`, and the key pair of service accounts (`sa.key`, `sa.pub`).
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(None, "pollux-testbed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let private = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let accounts = KeyPair::generate()?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("ca.crt"), issuer.pem())?;
        write_private(&folder.join("ca.key"), &private)?;
        fs::write(folder.join("sa.pub"), accounts.public_key_pem())?;
        write_private(&folder.join("sa.key"), &accounts.serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer })
    }

    /// Writes `FILE.crt` and `FILE.key` for somebody, good for serving and for calling.
    pub(crate) fn certificate(
        &self,
        file: &str,
        organization: Option<&str>,
        common: &str,
        names: &[SanType],
    ) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(organization, common);
        params.subject_alt_names = names.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.folder.join(format!("{file}.crt")), certificate.pem())?;
        write_private(&self.folder.join(format!("{file}.key")), &key.serialize_pem())
    }

    /// Writes `FILE.conf`, a kubeconfig with the paths of the files of a certificate.
    pub(crate) fn kubeconfig(&self, file: &str, server: &str) -> Result<()> {
        let folder = self.folder.display();
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: t, cluster: {{server: \"{server}\", certificate-authority: {folder}/ca.crt}}}}]\n\
             users: [{{name: u, user: {{client-certificate: {folder}/{file}.crt, client-key: {folder}/{file}.key}}}}]\n\
             contexts: [{{name: t, context: {{cluster: t, user: u}}}}]\ncurrent-context: t\n"
        );
        Ok(fs::write(self.folder.join(format!("{file}.conf")), text)?)
    }
}

/// A kubeconfig that holds its own certificates: it works from any folder, and after copying it to another machine.
pub(crate) fn portable_kubeconfig(pki: &Path, user: &str, cluster: &str, server: &str, to: &Path) -> Result<()> {
    let data = |file: String| -> Result<String> {
        Ok(STANDARD.encode(fs::read(pki.join(&file)).with_context(|| format!("no {file}"))?))
    };
    let (ca, certificate, key) = (data("ca.crt".into())?, data(format!("{user}.crt"))?, data(format!("{user}.key"))?);
    let text = format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: {cluster}, cluster: {{server: \"{server}\", certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: {cluster}-{user}, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]\n\
         contexts: [{{name: {cluster}, context: {{cluster: {cluster}, user: {cluster}-{user}}}}}]\ncurrent-context: {cluster}\n"
    );
    write_private(to, &text)
}

/// An alternative name that is an address.
pub(crate) fn ip(address: Ipv4Addr) -> SanType {
    SanType::IpAddress(address.into())
}

/// An alternative name that is a name.
pub(crate) fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into()?))
}

fn name(organization: Option<&str>, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common);
    name
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
