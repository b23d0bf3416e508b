//! Opening of the data directory: blocking work on a thread of the start's.

use std::sync::Arc;

use layerd_drivers::{Driver, factory};
use layerd_engine::{Engine, newest_copy};
use layerd_mounts::mounter::KernelMounter;
use layerd_store::call_phase::enter_at;
use tracing::{info, warn};

use crate::config::Config;
use crate::starting::{Start, Unstarted};
use crate::with_causes;

/// Opens the storage driver.
pub(crate) async fn open_driver(
    config: &Config,
    start: &Start,
) -> Result<Result<Arc<dyn Driver>, layerd_mounts::Error>, Unstarted> {
    let (root, settings) = (config.root.clone(), config.driver.clone());
    let open = move || {
        enter_at("opening the data directory", &root);
        factory::open(&root, &settings)
    };
    start.run(open).await
}

/// Opens the records, and makes good what is left of the last process.
pub(crate) async fn open_engine(
    config: &Config,
    driver: &Arc<dyn Driver>,
    start: &Start,
) -> Result<Result<Engine, layerd_engine::Error>, Unstarted> {
    let (root, driver) = (config.root.clone(), driver.clone());
    let options = config.engine.clone();
    let open = move || {
        let mounter = Arc::new(KernelMounter::new());
        let engine = Engine::open(&root, driver, mounter, options)?;
        tell_of_the_kernel(&engine);
        Ok(engine)
    };
    start.run(open).await
}

/// Logs the features that this kernel lacks.
fn tell_of_the_kernel(engine: &Engine) {
    let features = engine.attachments.kernel_features().iter();
    for feature in features.filter(|feature| feature.trouble.is_some()) {
        info!(feature = feature.name, "{feature}");
    }
}

/// The copy that a restore without a file takes, in words; empty without one.
pub(crate) async fn find_copy(
    config: &Config,
    driver: &Arc<dyn Driver>,
    start: &Start,
) -> Result<String, Unstarted> {
    let (root, driver) = (config.root.clone(), driver.clone());
    let find = move || {
        enter_at("looking for a copy of the records", &root);
        newest_copy(&root, driver.as_ref())
    };
    match start.run(find).await {
        Ok(Ok(copy)) => Ok(copy.map(|copy| copy.to_string()).unwrap_or_default()),
        Ok(Err(error)) => {
            warn!("look for a copy of the records: {}", with_causes(&error));
            Ok(String::new())
        }
        // It is no worse to have none.
        Err(Unstarted::Lost(_)) => Ok(String::new()),
        Err(stopped) => Err(stopped),
    }
}

/// Why there are no records, and how to get them back.
pub(crate) fn lost(trouble: &layerd_engine::Error, newest_copy: &str) -> String {
    let trouble = with_causes(trouble);
    match newest_copy {
        "" => format!(
            "{trouble}; there is no whole copy of the records: `layerctl restore FILE` puts a backup in its place"
        ),
        copy => format!(
            "{trouble}; `layerctl restore` goes back to {copy}; `layerctl restore FILE` takes a backup"
        ),
    }
}
