//! The chart and the kustomize bases, rendered and judged without a cluster.
//!
//! They are rendered by the real `helm` and `kubectl`, which are looked for in `$HELM` and `$KUBECTL`, in `PATH` and among
//! the cluster binaries of the cache (`make cluster` builds them). What a cluster does with the result is the business of the
//! scenarios; here is what can be known before: that no field is misspelt, who gets which rights, that every pod is restricted,
//! that the controller takes the arguments it is given, and that the copies of generated files are the generated files.

mod chart;
mod docs;
mod kustomize;
mod render;
mod rights;
