//! The messages, clients and servers generated from the .proto files of this crate.
//!
//! Nothing here decides anything; the rules are in the daemon. What a field or a call means is
//! documented in the .proto files.

pub mod codec;

/// The services that layerd serves, for gRPC reflection: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use generated::{containerd, cri, csi, layerd, nri};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::missing_errors_doc,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files carry the documentation"
)]
mod generated {
    /// containerd's packages.
    pub mod containerd {
        /// `containerd.types`.
        pub mod types {
            tonic::include_proto!("containerd.types");
        }
        /// `containerd.services`.
        pub mod services {
            /// `containerd.services.containers`.
            pub mod containers {
                /// `containerd.services.containers.v1`, called by layerctl.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.containers.v1");
                }
            }
            /// `containerd.services.content`.
            pub mod content {
                /// `containerd.services.content.v1`, called by layerd.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.content.v1");
                }
            }
            /// `containerd.services.diff`.
            pub mod diff {
                /// `containerd.services.diff.v1`.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.diff.v1");
                }
            }
            /// `containerd.services.images`.
            pub mod images {
                /// `containerd.services.images.v1`, called by layerctl.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.images.v1");
                }
            }
            /// `containerd.services.introspection`.
            pub mod introspection {
                /// `containerd.services.introspection.v1`, called by layerctl.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.introspection.v1");
                }
            }
            /// `containerd.services.leases`.
            pub mod leases {
                /// `containerd.services.leases.v1`, called by layerd.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.leases.v1");
                }
            }
            /// `containerd.services.namespaces`.
            pub mod namespaces {
                /// `containerd.services.namespaces.v1`, called by layerctl.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.namespaces.v1");
                }
            }
            /// `containerd.services.snapshots`.
            pub mod snapshots {
                /// `containerd.services.snapshots.v1`.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.snapshots.v1");
                }
            }
            /// `containerd.services.version`.
            pub mod version {
                /// `containerd.services.version.v1`, called by layerctl.
                pub mod v1 {
                    tonic::include_proto!("containerd.services.version.v1");
                }
            }
        }
    }

    /// The Container Storage Interface.
    pub mod csi {
        /// `csi.v1`.
        pub mod v1 {
            tonic::include_proto!("csi.v1");
        }
    }

    /// The Container Runtime Interface, called by the tests.
    pub mod cri {
        /// `runtime`.
        pub mod runtime {
            /// `runtime.v1`.
            pub mod v1 {
                tonic::include_proto!("runtime.v1");
            }
        }
    }

    /// The Node Resource Interface: messages alone, for ttrpc.
    pub mod nri {
        /// `nri.pkg.api.v1alpha1`, spoken by layerd-nri.
        pub mod v1alpha1 {
            tonic::include_proto!("nri.pkg.api.v1alpha1");
        }
    }

    /// layerd's own packages.
    pub mod layerd {
        /// `layerd.v1`: layers, volumes, mounts, attachments and administration.
        pub mod v1 {
            tonic::include_proto!("layerd.v1");
        }
    }
}
