use super::*;

fn set(texts: &[&str]) -> Result<(Values, Vec<Diagnostic>), InstallError> {
    let layers: Vec<Layer> = texts
        .iter()
        .map(|text| Layer::Set((*text).to_owned()))
        .collect();
    Values::read(&layers)
}

#[test]
fn the_defaults_are_sound_and_small() {
    let (values, warnings) = set(&[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(values.pilot.resources.requests["memory"].as_str(), "64Mi");
    assert_eq!(
        values.global.proxy.resources.requests["cpu"].as_str(),
        "10m"
    );
}

#[test]
fn a_layer_overrides_field_by_field() {
    let file = Layer::File {
        name: "values.yaml".to_owned(),
        text: "pilot: {resources: {requests: {cpu: 1}}}\nglobal: {tag: 1.5}\n".to_owned(),
    };
    let over = Layer::Set("values.global.tag=dev,meshConfig.accessLogFile=/dev/stdout".into());
    let (values, _) = Values::read(&[file, over]).unwrap();
    let requests = &values.pilot.resources.requests;
    assert_eq!(requests["cpu"].as_str(), "1");
    assert_eq!(requests["memory"].as_str(), "64Mi");
    assert_eq!(values.global.tag.as_str(), "dev");
    assert_eq!(values.mesh_config["accessLogFile"], "/dev/stdout");
}

#[test]
fn names_that_nobody_knows_are_told_all_at_once_with_a_remedy() {
    let error = set(&[
        "pilot.replicaCout=3",
        "pilot.autoscaleMin=few",
        "global.hubb=x",
        "meshConfig.acessLogFile=/dev/stdout",
    ])
    .unwrap_err()
    .to_string();
    for expected in [
        "pilot.replicaCout",
        "did you mean \"replicaCount\"?",
        "pilot.autoscaleMin",
        "global.hubb",
        "meshConfig.acessLogFile",
        "did you mean \"accessLogFile\"?",
    ] {
        assert!(error.contains(expected), "{expected} in:\n{error}");
    }
}

#[test]
fn wrong_values_are_errors_and_unread_ones_warnings() {
    let error = set(&["pilot.replicaCount=many", "revision=Canary"]).unwrap_err();
    assert!(error.to_string().contains("pilot.replicaCount"), "{error}");
    let error = set(&["revision=Canary"]).unwrap_err();
    assert!(error.to_string().contains("part of a name"), "{error}");
    let (_, warnings) = set(&["pilot.traceSampling=1"]).unwrap();
    assert_eq!(warnings[0].field.as_str(), "pilot.traceSampling");
}

#[test]
fn null_takes_single_defaults_away_and_nothing_that_is_needed() {
    let (values, _) = set(&["pilot.resources.requests=null"]).unwrap();
    assert!(values.pilot.resources.requests.is_empty());
    let error = set(&["pilot.cpu=null,global.proxy=null"]).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("pilot.cpu: null takes"), "{error}");
    assert!(error.contains("global.proxy: null takes"), "{error}");
}

#[test]
fn images_are_completed_or_whole() {
    let (values, _) = set(&["global.hub=example.test/mesh", "global.tag=2"]).unwrap();
    let nothing = Text::default();
    let check = |name, hub: &Text, expected: &str| {
        assert_eq!(values.image(name, hub, &nothing), expected);
    };
    check("pilot", &nothing, "example.test/mesh/pilot:2");
    check("pilot", &Text::from("other"), "other/pilot:2");
    check("elsewhere/pilot:3", &nothing, "elsewhere/pilot:3");
}
