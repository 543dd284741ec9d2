//! The chart.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::render::{
    NAMESPACE, QUICKSTART, all, arguments, chart, check_fields, controller, documents, find, helm, kind, name, pods,
    printed, read, root, try_chart, within,
};

/// An installation with databases of its own.
const OWN_DATABASES: &[&str] = &[
    "leaseDatabases[0].name=default",
    "leaseDatabases[0].secretRef.name=pg-app",
    "leaseDatabases[1].name=eu-west",
    "leaseDatabases[1].secretRef.name=pg-eu",
    "leaseDatabases[1].secretRef.key=url",
    "botNamespaces={bots}",
];

#[test]
fn a_misspelt_field_of_a_manifest_is_found() {
    for values in
        [QUICKSTART, OWN_DATABASES, &["watchNamespaces={a}", "clusterID=c", "quickstart.postgres.enabled=true"]]
    {
        let objects = chart(values);
        check_fields(&objects);
        let mut seen = std::collections::BTreeSet::new();
        for object in &objects {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            assert!(seen.insert((kind(object), namespace, name(object))), "twice: {} {}", kind(object), name(object));
        }
    }
}

#[test]
fn a_crd_that_is_not_the_codes_is_found() {
    let printed = printed("crd");
    for copy in
        ["crds/pollux.dev_telegrambots.yaml", "charts/pollux/files/crd.yaml", "config/crd/pollux.dev_telegrambots.yaml"]
    {
        assert!(printed == read(copy), "{copy} is not what the code says: make generate");
    }
    let rendered = chart(QUICKSTART);
    let crd = find(&rendered, "CustomResourceDefinition", "telegrambots.pollux.dev");
    let code = &documents(&printed)[0];
    assert!(
        within(&crd["spec"], &code["spec"]) && within(&code["spec"], &crd["spec"]),
        "the chart renders another CRD"
    );
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
}

#[test]
fn bots_outlive_the_release_unless_told_otherwise() {
    let objects = chart(&[QUICKSTART, &["crds.keep=false"]].concat());
    let crd = find(&objects, "CustomResourceDefinition", "telegrambots.pollux.dev");
    assert!(crd["metadata"]["annotations"].get("helm.sh/resource-policy").is_none());
    assert!(all(&chart(&[QUICKSTART, &["crds.enabled=false"]].concat()), "CustomResourceDefinition").is_empty());
}

/// The command line parser reports the first mistake it meets; so all arguments before the made-up one were accepted.
fn assert_accepted(arguments: &[String]) {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.push("--made-up");
    let output = controller(&arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {complaint}");
    assert!(complaint.contains("'--made-up'"), "{arguments:?}: {complaint}");
}

#[test]
fn the_controller_takes_the_arguments_that_it_is_given() {
    let objects = chart(QUICKSTART);
    let run = arguments(&objects, "Deployment", "pollux-controller");
    assert_eq!(run[0], "run");
    assert!(run.contains(&"--lease-database=default=/etc/pollux/lease/default/uri".to_owned()), "{run:?}");
    assert_accepted(&run);
    let grant = arguments(&objects, "Job", "pollux-grant");
    assert_eq!(grant[0], "grant");
    assert!(grant.contains(&"--namespace=bots".to_owned()) && grant.contains(&"--namespace=more-bots".to_owned()));
    assert_accepted(&grant);

    let namespaces =
        chart(&["watchNamespaces={a,b}", "botNamespaces={a}", "clusterID=c1", "quickstart.postgres.enabled=true"]);
    let run = arguments(&namespaces, "Deployment", "pollux-controller");
    for wanted in ["--watch-namespace=a", "--watch-namespace=b", "--cluster=c1"] {
        assert!(run.contains(&wanted.to_owned()), "{run:?}");
    }
    assert_accepted(&run);
    let grant = arguments(&namespaces, "Job", "pollux-grant");
    assert!(grant.contains(&"--cluster=c1".to_owned()), "{grant:?}");
    assert_accepted(&grant);
}

#[test]
fn every_database_is_mounted_from_its_own_secret() {
    let objects = chart(OWN_DATABASES);
    let run = arguments(&objects, "Deployment", "pollux-controller");
    for (at, pod) in pods(&objects) {
        let container = &pod.containers[0];
        for mount in container.volume_mounts.iter().flatten() {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).expect("the volume");
            let secret = volume.secret.as_ref().expect("a Secret");
            let item = &secret.items.as_ref().expect("one key")[0];
            let expected = match mount.mount_path.as_str() {
                "/etc/pollux/lease/default" => ("pg-app", "uri"),
                "/etc/pollux/lease/eu-west" => ("pg-eu", "url"),
                other => panic!("{at}: {other}"),
            };
            assert_eq!((secret.secret_name.as_deref().expect("a name"), item.key.as_str()), expected, "{at}");
            assert_eq!(item.path, "uri", "{at}");
            // What the pod's group may read; fsGroup makes the files the group's.
            assert_eq!(secret.default_mode, Some(0o440), "{at}");
            assert!(pod.security_context.as_ref().expect("a securityContext").fs_group.is_some(), "{at}");
        }
    }
    for wanted in ["default", "eu-west"] {
        assert!(run.contains(&format!("--lease-database={wanted}=/etc/pollux/lease/{wanted}/uri")), "{run:?}");
    }
}

#[test]
fn values_that_cannot_work_are_refused_with_the_mend() {
    let refused: &[(&[&str], &str)] = &[
        (&[], "quickstart.postgres.enabled=true"),
        (&["operator.replica=3"], "additional properties 'replica' not allowed"),
        (&["replicas=3"], "additional properties 'replicas' not allowed"),
        (&["operator.replicas=two"], "operator/replicas"),
        (&["operator.image.digest=latest"], "operator/image/digest"),
        (&["botNamespaces=bots"], "botNamespaces"),
        (&["quickstart.postgres.enabled=true", "botNamespaces={Bots}"], "botNamespaces/0"),
        (&["quickstart.postgres.enabled=true", "botNamespaces={a,a}"], "botNamespaces"),
        (&["leaseDatabases[0].name=default"], "secretRef"),
        (&["leaseDatabases[0].name=Main", "leaseDatabases[0].secretRef.name=s"], "leaseDatabases/0/name"),
        (
            &["leaseDatabases[0].name=main", "leaseDatabases[0].secretRef.name=s", "botNamespaces={a}"],
            "named \"default\"",
        ),
        (&[OWN_DATABASES[0], OWN_DATABASES[1], "quickstart.postgres.enabled=true"], "would add another"),
        (
            &[
                OWN_DATABASES[0],
                OWN_DATABASES[1],
                "leaseDatabases[1].name=default",
                "leaseDatabases[1].secretRef.name=x",
            ],
            "give each a name of its own",
        ),
        (&["quickstart.postgres.enabled=true", "watchNamespaces={a}"], "--set clusterID="),
        (
            &["quickstart.postgres.enabled=true", "clusterID=c", "watchNamespaces={a}", "botNamespaces={b}"],
            "is not one of watchNamespaces",
        ),
    ];
    for (values, message) in refused {
        let complaint = try_chart(values).expect_err(&format!("{values:?} was accepted"));
        assert!(complaint.contains(message), "{values:?} should be refused with {message:?}, but: {complaint}");
    }
}

#[test]
fn an_umbrella_chart_may_set_what_it_always_sets() {
    chart(&[QUICKSTART, &["global.region=eu", "enabled=true"]].concat());
}

#[test]
fn one_replica_of_the_operator_does_not_block_drains() {
    assert_eq!(all(&chart(QUICKSTART), "PodDisruptionBudget").len(), 1);
    assert!(all(&chart(&[QUICKSTART, &["operator.replicas=1"]].concat()), "PodDisruptionBudget").is_empty());
}

#[test]
fn images_are_named_by_version_or_digest() {
    let version = env!("CARGO_PKG_VERSION");
    let about = &documents(&read("charts/pollux/Chart.yaml"))[0];
    assert_eq!(about["version"], version);
    assert_eq!(about["appVersion"], version);

    let objects = chart(QUICKSTART);
    let image = |objects: &[Value]| {
        find(objects, "Deployment", "pollux-controller")["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(image(&objects), pollux_api::names::CONTROLLER_IMAGE);
    let agent = format!("--agent-image={}", pollux_api::names::AGENT_IMAGE);
    assert!(arguments(&objects, "Deployment", "pollux-controller").contains(&agent));

    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let by_digest = format!("operator.image.digest={digest}");
    assert_eq!(
        image(&chart(&[QUICKSTART, &[&by_digest]].concat())),
        format!("ghcr.io/pollux-operator/pollux-controller@{digest}")
    );
    let own =
        ["operator.image.registry=registry.example:5000", "operator.image.repository=x/y", "operator.image.tag=z"];
    assert_eq!(image(&chart(&[QUICKSTART, &own].concat())), "registry.example:5000/x/y:z");
}

#[test]
fn an_upgrade_does_not_empty_the_throwaway_database() {
    let objects = chart(QUICKSTART);
    assert_eq!(find(&objects, "StatefulSet", "pollux-postgres")["spec"]["updateStrategy"]["type"], "OnDelete");
    let template = read("charts/pollux/templates/quickstart-postgres.yaml");
    assert!(template.contains("lookup \"v1\" \"Secret\""), "the password of the first install is kept");
}

/// NOTES.txt is shown by `helm install` only; here a copy of the chart shows it as an object.
fn notes(values: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&root().join("charts/pollux"), folder.path());
    fs::rename(folder.path().join("templates/NOTES.txt"), folder.path().join("files/notes")).expect("NOTES.txt");
    let object = "kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get \"files/notes\") . | toJson }}\n";
    fs::write(folder.path().join("templates/notes.yaml"), object).expect("a template");
    let objects = helm(folder.path(), values).expect("helm template");
    find(&objects, "Notes", "notes")["text"].as_str().expect("text").to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a file");
        }
    }
}

#[test]
fn the_notes_end_with_the_next_command_and_show_a_bot_that_is_valid() {
    let watching: &[&str] = &["quickstart.postgres.enabled=true", "watchNamespaces={a,b}", "clusterID=c"];
    for (values, namespace) in [
        (QUICKSTART, "bots"),
        (&["quickstart.postgres.enabled=true"], "bots"),
        (OWN_DATABASES, "bots"),
        (watching, "a"),
    ] {
        let notes = notes(values);
        let last = notes.trim_end().lines().last().expect("notes").trim();
        assert_eq!(last, format!("kubectl get telegrambots --namespace {namespace} --watch"));
        let manifest =
            notes.split("<<'YAML'\n").nth(1).and_then(|rest| rest.split("\n  YAML").next()).expect("a manifest");
        let bot: pollux_api::TelegramBot = serde_yaml::from_str(manifest).expect("a TelegramBot");
        assert_eq!(bot.metadata.namespace.as_deref(), Some(namespace));
        assert_eq!(
            notes.contains("THROWAWAY") || notes.contains("throwaway"),
            values.contains(&"quickstart.postgres.enabled=true")
        );
        assert!(!notes.contains("--set 'botNamespaces=") || notes.contains(&format!("={{{namespace}}}'")), "{notes}");
        assert!(notes.contains(NAMESPACE));
    }
}
