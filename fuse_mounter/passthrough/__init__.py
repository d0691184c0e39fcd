# SPDX-License-Identifier: Apache-2.0
"""A file system that serves a local directory. A program of its own (`python -m
fuse_mounter.passthrough`): it knows nothing of agents, publishing or health.

What pyfuse3 cannot express, and so what this file system does not have:

- locks (flock, fcntl) are the kernel's own for this mount: all containers of the node see each
  other's, a process that uses the directory below directly does not;
- fallocate and hole punching answer EOPNOTSUPP, SEEK_DATA and SEEK_HOLE see a file without holes
  (sparse files stay sparse), copy_file_range copies through memory;
- ioctl, and with it FS_IOC_GETFLAGS and reflinks;
- O_TMPFILE answers EOPNOTSUPP; programs then make a file with a name;
- O_APPEND appends at the size this mount knows, at most `cache_timeout` old: a file to which
  somebody below appends too needs `cache_timeout: 0`.
"""
