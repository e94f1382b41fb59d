//! Fault 20 at the service: its changes and those of others in one file. None is lost, and what cannot be written is
//! refused with the reason.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use portolan::model::profile::{MappingConfig, Profile, WrittenMapping};
use portolan::model::request::{Reply, Request, RequestError};
use portolan::model::update::MappingRow;
use portolan::store::{Locations, ProfileSource, SaveError, Store};

use crate::echo::{echo_server, echoes};
use crate::world::{World, is_up, message, written};

/// A service on a profile file of one mapping, which is stopped.
async fn world() -> World {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("profile.json"), text(&["first"])).expect("it can be written");
    World::on(folder).await
}

async fn add(world: &World, name: &str) -> Result<Reply, RequestError> {
    let mapping = WrittenMapping { name: Some(name.into()), enabled: Some(false), ..written("auto", "192.0.2.1:80") };
    world.handle.request(Request::Add { mapping, even_if_busy: false }).await
}

fn mapping(name: &str) -> MappingConfig {
    let mapping = "auto:192.0.2.1:80".parse().expect("a mapping");
    MappingConfig { enabled: false, ..MappingConfig::new(name, mapping) }
}

/// The file with mappings of these names.
fn text(names: &[&str]) -> String {
    Profile::from_configs(names.iter().map(|name| mapping(name)).collect()).expect("a profile").to_text()
}

fn names(file: &Path) -> Vec<String> {
    let store = store(file, file.parent().expect("it lies in a folder"));
    store.load(&[]).expect("it can be read").profile.mappings.into_iter().map(|config| config.name).collect()
}

fn store(file: &Path, state: &Path) -> Store {
    let locations = Locations::new(state.join("config"), state.join("state"));
    Store::open_in(ProfileSource::File(file.to_owned()), locations).expect("a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_file_is_not_usable_an_edit_says_so_and_nothing_changes() {
    let world = world().await;
    for wrong in ["{ \"version\": 1, \"mappings\": [", "", "{\"version\":1,\"mappings\":[{\"listen\":\"70000\"}]}"] {
        fs::write(world.file(), wrong).expect("edited by hand");
        for _ in 0..2 {
            let said = message(add(&world, "second").await);
            assert!(said.starts_with("nothing changed: the profile was edited by hand and not applied: "), "{said}");
            assert!(said.contains("profile.json") && said.ends_with("; mend it, then repeat"), "{said}");
        }
        let undo = world.handle.request(Request::Undo).await;
        assert!(undo.is_err(), "{undo:?}");
        assert_eq!(fs::read_to_string(world.file()).expect("it is there"), wrong, "what is there is left alone");
    }
    fs::write(world.file(), text(&["first", "by-hand"])).expect("mended");
    // Whether it has been seen meanwhile or is met by the edit, nothing of it is lost.
    if add(&world, "second").await.is_err() {
        add(&world, "second").await.expect("the second time it works");
    }
    assert_eq!(names(&world.file()), ["first", "by-hand", "second"]);
    world.end().await;
}

/// The port of an `auto` mapping and its connections stay its own when another one goes, comes, or changes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_edits_of_other_auto_mappings_leave_one_its_port_and_its_connections() {
    let (kept, other) = (echo_server(), echo_server());
    let listed = |targets: &[SocketAddr]| {
        let mappings = targets.iter().map(|target| format!("{{ \"listen\": \"auto\", \"target\": \"{target}\" }}"));
        format!("{{ \"version\": 1, \"mappings\": [{}] }}", mappings.collect::<Vec<_>>().join(", "))
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("profile.json"), listed(&[other, kept])).expect("it can be written");
    let world = World::on(folder).await;
    let mut rows = world.rows().await;
    let port_of = |rows: &[MappingRow]| {
        let row = rows.iter().find(|row| row.mapping.target.to_string() == kept.to_string())?;
        row.listeners.first()?.bound
    };
    let both = rows.wait("both up", |rows| rows.len() == 2 && rows.iter().all(is_up)).await;
    let port = port_of(both).expect("it is bound");
    let mut staying = TcpStream::connect(port).expect("the mapping listens");
    assert!(echoes(&mut staying));
    for targets in [&[kept, other][..], &[kept], &[other, kept], &[other, kept, other], &[kept]] {
        fs::write(world.file(), listed(targets)).expect("it can be written");
        let now = rows.wait("applied", |rows| rows.len() == targets.len() && rows.iter().all(is_up)).await;
        assert_eq!(port_of(now), Some(port), "{targets:?}");
        assert!(echoes(&mut staying), "{targets:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_the_service_and_of_others_are_all_kept() {
    const EDITS: usize = 25;
    const OTHERS: usize = 3;
    let world = world().await;
    let others: Vec<_> = (0..OTHERS)
        .map(|other| {
            let store = store(&world.file(), &world.folder.path().join(other.to_string()));
            std::thread::spawn(move || {
                for edit in 0..EDITS {
                    loop {
                        let mut configs = store.load(&[]).expect("it can be read").profile.mappings;
                        configs.push(mapping(&format!("other-{other}-{edit}")));
                        match store.save(&Profile::from_configs(configs).expect("a profile")) {
                            Ok(()) => break,
                            Err(SaveError::StaleOnDisk { .. } | SaveError::Busy { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        std::thread::sleep(Duration::from_millis(3));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();
    let mut repeated = 0;
    for edit in 0..EDITS {
        while let Err(error) = add(&world, &format!("own-{edit}")).await {
            assert!(error.to_string().ends_with("that is applied now: repeat"), "{error}");
            repeated += 1;
        }
    }
    tokio::task::block_in_place(|| others.into_iter().for_each(|other| other.join().expect("it made its edits")));
    println!("{repeated} edits of the service met somebody else's and were repeated");
    assert!(repeated > 0, "they never met: nothing was tested");
    // The service has seen the last of the others' before it writes again.
    while add(&world, "last").await.is_err() {}
    let kept = names(&world.file());
    assert_eq!(kept.len(), 1 + EDITS * (1 + OTHERS) + 1, "{kept:?}");
    world.end().await;
}
