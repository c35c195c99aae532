//! Hardware adapters, and the kernel's software ones, through rdma-core.
