use super::*;

fn read(uri: &str) -> Database {
    Database::parse(uri).unwrap_or_else(|e| panic!("{uri}: {e}"))
}

fn refused(uri: &str) -> String {
    Database::parse(uri).expect_err(uri).to_string()
}

fn file(path: &str) -> Roots {
    Roots::File(path.into())
}

/// The shapes that providers hand out, with what must be understood of each.
#[test]
fn what_the_providers_hand_out_is_understood() {
    let table: &[(&str, &str, &str, &str, &str, TlsPolicy)] = &[
        // CloudNativePG: keys `uri` and `fqdn-uri` of <cluster>-app
        (
            "postgresql://app:Zx8%3Fq@cluster-example-rw.default:5432/app",
            "cluster-example-rw.default:5432",
            "app",
            "Zx8?q",
            "app",
            TlsPolicy::Prefer,
        ),
        (
            "postgresql://app:p@cluster-rw.shop.svc.cluster.local:5432/app?sslmode=verify-full&sslrootcert=%2Fca%2Fca.crt",
            "cluster-rw.shop.svc.cluster.local:5432",
            "app",
            "p",
            "app",
            TlsPolicy::VerifyFull(file("/ca/ca.crt")),
        ),
        // Amazon RDS
        (
            "postgresql://pollux:p@mydb.abcd1234.eu-central-1.rds.amazonaws.com:5432/postgres?sslmode=verify-full&sslrootcert=/certs/global-bundle.pem",
            "mydb.abcd1234.eu-central-1.rds.amazonaws.com:5432",
            "pollux",
            "p",
            "postgres",
            TlsPolicy::VerifyFull(file("/certs/global-bundle.pem")),
        ),
        // Neon, direct and pooled
        (
            "postgresql://alex:AbC123dEf@ep-cool-darkness-123456.us-east-2.aws.neon.tech/dbname?sslmode=require&channel_binding=require",
            "ep-cool-darkness-123456.us-east-2.aws.neon.tech:5432",
            "alex",
            "AbC123dEf",
            "dbname",
            TlsPolicy::Require,
        ),
        (
            "postgresql://alex:AbC123dEf@ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech/dbname?sslmode=require&options=endpoint%3Dep-cool-darkness-123456",
            "ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech:5432",
            "alex",
            "AbC123dEf",
            "dbname",
            TlsPolicy::Require,
        ),
        // Supabase: direct, session pooler, transaction pooler
        (
            "postgresql://postgres:p%40ss%23word@db.abcdefghijklmnopqrst.supabase.co:5432/postgres",
            "db.abcdefghijklmnopqrst.supabase.co:5432",
            "postgres",
            "p@ss#word",
            "postgres",
            TlsPolicy::Prefer,
        ),
        (
            "postgres://postgres.abcdefghijklmnopqrst:p@aws-0-us-east-1.pooler.supabase.com:5432/postgres",
            "aws-0-us-east-1.pooler.supabase.com:5432",
            "postgres.abcdefghijklmnopqrst",
            "p",
            "postgres",
            TlsPolicy::Prefer,
        ),
        (
            "postgres://postgres.abcdefghijklmnopqrst:p@aws-0-us-east-1.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1",
            "aws-0-us-east-1.pooler.supabase.com:6543",
            "postgres.abcdefghijklmnopqrst",
            "p",
            "postgres",
            TlsPolicy::Prefer,
        ),
        // Aiven
        (
            "postgres://avnadmin:AVNS_x@pg-3b8d-shop.a.aivencloud.com:12691/defaultdb?sslmode=require",
            "pg-3b8d-shop.a.aivencloud.com:12691",
            "avnadmin",
            "AVNS_x",
            "defaultdb",
            TlsPolicy::Require,
        ),
        // PgBouncer in front of one's own server
        (
            "postgres://pollux:p@pgbouncer.db:6432/pollux?pgbouncer=true",
            "pgbouncer.db:6432",
            "pollux",
            "p",
            "pollux",
            TlsPolicy::Prefer,
        ),
        // Node's and Heroku's way to ask for TLS
        (
            "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d?ssl=true",
            "ec2-1-2-3-4.compute-1.amazonaws.com:5432",
            "u",
            "p",
            "d",
            TlsPolicy::Require,
        ),
        // several hosts, one of them writable; IPv6
        (
            "postgresql://u:p@pg-0.pg:5432,pg-1.pg:5433/d?target_session_attrs=read-write&load_balance_hosts=random",
            "pg-0.pg:5432,pg-1.pg:5433",
            "u",
            "p",
            "d",
            TlsPolicy::Prefer,
        ),
        (
            "postgresql://u:p@[2001:db8::1]:6000/d?sslmode=disable",
            "[2001:db8::1]:6000",
            "u",
            "p",
            "d",
            TlsPolicy::Disable,
        ),
        ("postgresql://u@h", "h:5432", "u", "", "u", TlsPolicy::Prefer),
        ("postgresql:///d?host=a,b&port=1,2&user=u&password=p", "a:1,b:2", "u", "p", "d", TlsPolicy::Prefer),
    ];
    for (uri, address, user, password, dbname, tls) in table {
        let found = read(uri);
        assert_eq!(found.address(), *address, "{uri}");
        assert_eq!(found.user(), *user, "{uri}");
        assert_eq!(found.password().unwrap_or_default(), *password, "{uri}");
        assert_eq!(found.dbname(), *dbname, "{uri}");
        assert_eq!(found.tls(), tls, "{uri}");
        assert_eq!(read(&found.to_uri()), Database { dbname: Some(found.dbname().into()), ..found.clone() }, "{uri}");
    }
}

#[test]
fn sslmode_and_sslrootcert_mean_what_they_mean_to_libpq() {
    let tls = |query: &str| read(&format!("postgresql://u@h/d?{query}")).tls().clone();
    assert_eq!(tls("sslmode=allow"), TlsPolicy::Prefer);
    assert_eq!(tls("sslmode=require&sslrootcert=/ca"), TlsPolicy::VerifyCa(file("/ca")));
    assert_eq!(tls("sslmode=verify-ca&sslrootcert=/ca"), TlsPolicy::VerifyCa(file("/ca")));
    assert_eq!(tls("sslmode=verify-full"), TlsPolicy::VerifyFull(Roots::Public));
    assert_eq!(tls("sslrootcert=system"), TlsPolicy::VerifyFull(Roots::Public));
    let e = refused("postgresql://u@h/d?sslmode=require&sslrootcert=system");
    assert!(e.contains("verify-full"), "{e}");
}

#[test]
fn mistakes_are_named_with_their_mend() {
    for (uri, hint) in [
        ("", "empty"),
        ("host=h user=u", "does not begin with postgresql://"),
        ("mysql://u:secret@h/d", "the scheme is mysql"),
        ("jdbc:postgresql://h/d?user=u&password=secret", "the key uri, not jdbc-uri"),
        ("postgresql+asyncpg://u:secret@h/d", "without the name of a library"),
        ("postgresql://u:secret@/d", "names no host"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://u:secret/more@h/d", "%2F"),
        ("postgresql://u:sec%zzret@h/d", "written %25"),
        ("postgresql://u:secret@h:99999/d", "1 to 65535"),
        ("postgresql://u:secret@h/d?sslmode=verify_full", "verify-full"),
        ("postgresql://u:secret@h/d?sslkey=/k", "give the role a password"),
        ("postgresql://u:secret@h/d?colour=blue", "colour is not known"),
        ("postgresql://u:secret@h/d?target_session_attrs=standby", "read-write"),
        ("postgresql://u:secret@h/d?sslnegotiation=direct", "needs sslmode"),
    ] {
        let e = refused(uri);
        assert!(e.contains(hint), "{uri}: {e}");
        assert!(!e.contains("secret") && !e.contains("sec%"), "{uri} shows the password: {e}");
    }
}

#[test]
fn another_login_enters_the_same_database_and_the_password_is_not_printed() {
    let owner = read("postgresql://owner:one@h:6000/?sslmode=require&application_name=x");
    let agent = owner.clone().with_login("agent", "tw o/&").with_host("pg.example", None);
    assert_eq!(
        agent.to_uri(),
        "postgresql://agent:tw%20o%2F%26@pg.example:6000/owner?sslmode=require&application_name=x"
    );
    assert!(!owner.same_server(&agent));
    assert!(owner.same_server(&owner.clone().with_login("agent", "two")));
    assert_eq!(format!("{agent:?}"), "Database(pg.example:6000/owner as agent)");
}
