//! Names of all metrics, for Prometheus. Those of the process itself (`process_*`) are standard ones.

/// Kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Seconds,
    Histogram,
    Counter,
    Gauge,
}

/// All metrics of layerd itself: name, kind and help text. A test holds the dashboard and the alert
/// rules in deploy/ against it.
pub(super) const METRICS: &[(&str, Kind, &str)] = &[
    (
        "layerd_rpc_seconds",
        Kind::Seconds,
        "Time from the arrival of a call to the end of its answer.",
    ),
    (
        "layerd_commit_seconds",
        Kind::Seconds,
        "Time of a commit of the records, its wait for the disk included.",
    ),
    (
        "layerd_commit_batch_changes",
        Kind::Histogram,
        "Calls that one commit of the records served.",
    ),
    (
        "layerd_barrier_seconds",
        Kind::Seconds,
        "Time of a wait for directories and content to be durable before their records, or with them where both are in one journal.",
    ),
    (
        "layerd_unpack_seconds",
        Kind::Seconds,
        "Time of unpacking a layer, until its content is on the disk.",
    ),
    (
        "layerd_unpack_bytes_total",
        Kind::Counter,
        "Bytes of unpacked layers, as tar streams.",
    ),
    (
        "layerd_deleted_layers_total",
        Kind::Counter,
        "Layers deleted from the trash.",
    ),
    (
        "layerd_deletion_failures_total",
        Kind::Counter,
        "Deletions from the trash that failed and are tried again.",
    ),
    (
        "layerd_trace_spans_sent_total",
        Kind::Counter,
        "Spans of traces that the collector took.",
    ),
    (
        "layerd_trace_spans_dropped_total",
        Kind::Counter,
        "Spans of traces that were not sent: the collector was away for long, or refused them.",
    ),
    (
        "layerd_build_info",
        Kind::Gauge,
        "Always 1; the version is a label.",
    ),
    ("layerd_snapshots", Kind::Gauge, "Snapshots by kind."),
    (
        "layerd_snapshot_bytes",
        Kind::Gauge,
        "Bytes of disk held by snapshots whose figure is known.",
    ),
    (
        "layerd_snapshots_unmeasured",
        Kind::Gauge,
        "Snapshots whose figure is not known yet.",
    ),
    (
        "layerd_snapshots_quarantined",
        Kind::Gauge,
        "Snapshots that answer DATA_LOSS.",
    ),
    (
        "layerd_images",
        Kind::Gauge,
        "EROFS images of layers, removed ones until their deletion begins included, by state: mounted or unmounted.",
    ),
    (
        "layerd_image_bytes",
        Kind::Gauge,
        "Bytes of disk held by snapshots that are images.",
    ),
    (
        "layerd_image_loop_devices",
        Kind::Gauge,
        "Loop devices that mounted images take.",
    ),
    (
        "layerd_trash_layers",
        Kind::Gauge,
        "Removed layers still on the disk.",
    ),
    (
        "layerd_trash_bytes",
        Kind::Gauge,
        "Bytes of disk held by removed layers whose figure is known.",
    ),
    (
        "layerd_trash_guard",
        Kind::Gauge,
        "1 while nothing is deleted because too much was removed at once.",
    ),
    (
        "layerd_volumes",
        Kind::Gauge,
        "Volumes by state: used or unused.",
    ),
    ("layerd_attachments", Kind::Gauge, "Attachments."),
    (
        "layerd_volume_used_bytes",
        Kind::Gauge,
        "Bytes that a volume holds: as the kernel counts them under a limit, else as measured last.",
    ),
    (
        "layerd_volume_used_inodes",
        Kind::Gauge,
        "Inodes that a volume holds, likewise.",
    ),
    (
        "layerd_volume_limit_bytes",
        Kind::Gauge,
        "Bytes that a volume with a limit is held to.",
    ),
    (
        "layerd_volume_limit_inodes",
        Kind::Gauge,
        "Inodes that a volume with a limit is held to, where they have a fixed number.",
    ),
    (
        "layerd_snapshot_used_bytes",
        Kind::Gauge,
        "Bytes used of the limit of an active snapshot, as the kernel counts them.",
    ),
    (
        "layerd_snapshot_used_inodes",
        Kind::Gauge,
        "Inodes used of the limit of an active snapshot, likewise.",
    ),
    (
        "layerd_snapshot_limit_bytes",
        Kind::Gauge,
        "Bytes that an active snapshot with a limit is held to.",
    ),
    (
        "layerd_snapshot_limit_inodes",
        Kind::Gauge,
        "Inodes that an active snapshot with a limit is held to, where they have a fixed number.",
    ),
    (
        "layerd_disk_bytes",
        Kind::Gauge,
        "Size of the file system under the root.",
    ),
    (
        "layerd_disk_free_bytes",
        Kind::Gauge,
        "Free space of the file system under the root.",
    ),
    (
        "layerd_disk_inodes",
        Kind::Gauge,
        "Inodes of the file system under the root; 0 where it has no fixed number of them.",
    ),
    (
        "layerd_disk_free_inodes",
        Kind::Gauge,
        "Inodes of the file system under the root that are free.",
    ),
    (
        "layerd_export_behind_seconds",
        Kind::Gauge,
        "Age of the newest export of the records, or 0 while nothing has changed since.",
    ),
    (
        "layerd_calls",
        Kind::Gauge,
        "Calls by work (snapshots, layers, volumes, admin) and state: running or queued.",
    ),
    (
        "layerd_reserve_level",
        Kind::Gauge,
        "How close the reserve of each file system with data is: 0 far, 1 near, 2 reached.",
    ),
    (
        "layerd_reserve_bytes",
        Kind::Gauge,
        "Bytes of each file system with data that nothing new may take.",
    ),
    (
        "layerd_reserve_refusals_total",
        Kind::Counter,
        "Calls that were refused, or ended, because a reserve was reached.",
    ),
    (
        "layerd_database_failed",
        Kind::Gauge,
        "1 while the database takes no changes.",
    ),
];
