use super::*;

fn env_of<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

fn with_file(text: &str, env: &[(&str, &str)], overrides: Overrides) -> Result<Config, Error> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("stentor.toml"), text).unwrap();
    let overrides = Overrides { home: Some(home.path().to_owned()), ..overrides };
    Config::load_with(&overrides, &env_of(env))
}

fn message(text: &str) -> String {
    with_file(text, &[], Overrides::default()).unwrap_err().to_string()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = "[log]\nlevel = \"warn\"\nformat = \"json\"\n[limits]\nqueue_depth = 3\n";
    let env = [("STENTOR_LOG_LEVEL", "debug"), ("STENTOR_OFFLINE", "1")];
    let flags = Overrides { log_level: Some("trace".into()), ..Overrides::default() };
    let config = with_file(text, &env, flags).unwrap();
    assert_eq!(config.log.level, "trace");
    assert_eq!(config.origin("log.level"), Origin::Flag("--log-level"));
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(matches!(config.origin("log.format"), Origin::File { line: 3, .. }));
    assert!(config.offline);
    assert_eq!(config.origin("offline"), Origin::Env("STENTOR_OFFLINE".into()));
    assert_eq!(config.limits.queue_depth, 3);
    assert_eq!(config.limits.max_connections, 1024);
    assert_eq!(config.origin("limits.max_connections"), Origin::Default);
}

#[test]
fn the_home_folder_follows_xdg() {
    let load = |pairs: &[(&str, &str)]| Config::load_with(&Overrides::default(), &env_of(pairs));
    let xdg = load(&[("XDG_DATA_HOME", "/nowhere/data"), ("HOME", "/nowhere/me")]).unwrap();
    assert_eq!(xdg.home, PathBuf::from("/nowhere/data/stentor"));
    let home = load(&[("XDG_DATA_HOME", "relative"), ("HOME", "/nowhere/me")]).unwrap();
    assert_eq!(home.home, PathBuf::from("/nowhere/me/.local/share/stentor"));
    assert!(matches!(load(&[]), Err(Error::NoHome)));
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
    let text = message("offline = true\n\n[limits]\nqueue_dept = 4\n");
    assert!(text.contains("stentor.toml:4: unknown setting `limits.queue_dept`"), "{text}");
    assert!(text.contains("did you mean `limits.queue_depth`?"), "{text}");
    let text = message("queue_depth = 4\n");
    assert!(text.contains("did you mean `limits.queue_depth`?"), "{text}");
    let text = message("zzzzqqq = 4\n");
    assert!(!text.contains("did you mean"), "{text}");
    let text = message("[limit]\naudio_seconds = 4\n");
    assert!(text.contains(":1: unknown setting `limit`"), "{text}");
}

#[test]
fn values_out_of_bounds_name_the_place_and_the_bounds() {
    let text = message("[limits]\nqueue_depth = 0\n");
    assert!(text.contains("stentor.toml:2: `limits.queue_depth` is 0; it must be from 1 to"), "{text}");
    assert!(message("[limits]\nqueue_depth = \"9\"\n").contains("must be a whole number"));
    assert!(message("addr = \"example.org:80\"\n").contains("must be an IP address and a port"));
    assert!(message("allowed_hosts = [\"*\"]\n").contains("bare host name"));
    assert!(message("cors_origins = [\"*\"]\n").contains("exact origin"));
    assert!(message("cors_origins = [\"https://a.example/\"]\n").contains("exact origin"));
    assert!(message("[log]\nlevel = \"loud=very\"\n").contains("level"));
    assert!(message("[models]\nquantise = \"q4_0\"\n").contains("`models.quantise` must be q8_0 or none"));
    assert!(message("offline = tru\n").contains("stentor.toml:1: not TOML"));
    let env = [("STENTOR_LIMITS_AUDIO_SECONDS", "long")];
    let error = with_file("", &env, Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("STENTOR_LIMITS_AUDIO_SECONDS"), "{error}");
}

#[test]
fn the_device_is_one_that_this_build_has() {
    let kind = |text: &str| with_file(text, &[], Overrides::default()).map(|c| c.device.kind);
    assert_eq!(kind("").unwrap(), DeviceKind::Auto);
    assert_eq!(kind("device.kind = \"cpu\"").unwrap(), DeviceKind::Cpu);
    assert!(
        message("[device]\nkind = \"tpu\"\n")
            .contains("stentor.toml:2: `device.kind` is tpu; it must be auto")
    );
    let cuda = kind("device.kind = \"cuda\"");
    if cfg!(feature = "cuda") {
        assert_eq!(cuda.unwrap(), DeviceKind::Cuda);
    } else {
        assert!(cuda.unwrap_err().to_string().contains("--features cuda"));
    }
    let env = [("STENTOR_DEVICE_KIND", "cpu")];
    let config = with_file("device.kind = \"auto\"", &env, Overrides::default()).unwrap();
    assert_eq!(config.device.kind, DeviceKind::Cpu);
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let text = "addr = \"[::1]:9000\"\nallowed_hosts = [\"GPU.example\"]\n[models]\npreload = \"starter\"\n\
                keep_alive_s = -1\nquantise = \"none\"\naliases = { \"whisper-1\" = \"whisper-base\", \"a b\" = \"c\\\"d\" }\n";
    let first = with_file(text, &[], Overrides::default()).unwrap();
    let printed = first.to_toml();
    assert!(printed.contains("stentor.toml:1"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed).unwrap();
    let overrides = Overrides { config: Some(file.path().to_owned()), ..Overrides::default() };
    let second = Config::load_with(&overrides, &env_of(&[])).unwrap();
    for setting in settings::SETTINGS {
        assert_eq!((setting.get)(&first), (setting.get)(&second), "{}", setting.name);
    }
    assert_eq!(second.allowed_hosts, ["gpu.example"]);
    assert_eq!(second.models.preload, ["starter"]);
    assert_eq!(second.models.keep_alive, None);
    assert_eq!(second.models.quantise, crate::types::model::Quantise::None);
    assert_eq!(second.models.aliases["whisper-1"], "whisper-base");
}

#[test]
fn a_public_address_needs_keys_or_a_word() {
    let listen = |text: &str, env: &[(&str, &str)]| {
        let config = with_file(text, env, Overrides::default()).unwrap();
        let keys = config.api_keys().unwrap();
        config.check_listen(&keys)
    };
    let key = [("STENTOR_API_KEY", "0123456789abcdef")];
    assert!(listen("", &[]).is_ok());
    assert!(listen("addr = \"[::ffff:127.0.0.1]:80\"", &[]).is_ok());
    let refused = listen("addr = \"0.0.0.0:80\"", &[]).unwrap_err().to_string();
    assert!(refused.contains("--no-auth"), "{refused}");
    assert!(listen("addr = \"[::]:80\"", &[]).is_err());
    assert!(listen("addr = \"0.0.0.0:80\"", &key).is_ok());
    assert!(listen("addr = \"0.0.0.0:80\"\nno_auth = true", &[]).is_ok());
    assert!(matches!(listen("no_auth = true", &key), Err(Error::Contradiction { .. })));
}

#[test]
fn new_keys_are_kept_only_as_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/api-keys");
    let key = new_key(&path, "laptop").unwrap();
    assert!(key.secret.len() > 50);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&key.secret));
    assert!(matches!(new_key(&path, "laptop"), Err(Error::KeyName { .. })));
    assert!(matches!(new_key(&path, "../x y"), Err(Error::KeyName { .. })));
    new_key(&path, "phone").unwrap();
    let keys = parse_keys(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(keys.iter().map(|k| k.id.as_str()).collect::<Vec<_>>(), ["laptop", "phone"]);
    assert_ne!(keys[0].sha256, keys[1].sha256);
}

#[test]
fn broken_key_files_and_weak_keys_are_refused() {
    let path = Path::new("keys");
    let line = |text: &str| parse_keys(path, text).unwrap_err().to_string();
    assert!(line("# fine\n\nlaptop sk-plain").contains("keys:3"));
    assert!(line("laptop sha256:zz").contains("64 hexadecimal"));
    let good = format!("a sha256:{}", "0".repeat(64));
    assert!(line(&format!("{good}\n{good}")).contains("once"));
    let weak = with_file("", &[("STENTOR_API_KEYS", "0123456789abcdef, secret")], Overrides::default());
    let text = weak.unwrap_err().to_string();
    assert!(text.contains("STENTOR_API_KEYS") && !text.contains("secret"), "{text}");
    let gone = with_file("api_key_file = \"/nowhere/keys\"", &[], Overrides::default()).unwrap();
    assert!(matches!(gone.api_keys(), Err(Error::Read { .. })));
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "\\PC{0,200}") {
        let _ = file::parse(Path::new("stentor.toml"), &text);
        let _ = parse_keys(Path::new("keys"), &text);
    }
}
