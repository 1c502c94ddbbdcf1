# Settings of nodeagent run. Each is a flag too (nodeagent run --help), and a
# variable, such as CLUSTERD_ADDRESS in nodeagent.env; a flag wins over a
# variable, and that over this file. What is commented out shows the defaults,
# or an example where there is none.

# A server of the cluster to join, with the CLUSTERD_JOIN_TOKEN of nodeagent.env
# or in a file. Only the first start needs them.
#server     = "10.0.0.1:7443"
#token_file = "/etc/clusterd/join-token"

# The machine's host name, and its address on the way to the server, unless they
# are given.
#name    = "w1"
#address = "10.0.0.11"

# Of the node when it joins.
#labels = { zone = "a", disk = "ssd" }

# What pods may reserve: an amount, or a share of the machine.
#allocatable_cpu    = "100%"
#allocatable_memory = "90%"

# Say goodbye when stopped, also by a restart: pods are replaced elsewhere.
#leave = false

#data_dir           = "/var/lib/clusterd/agent"
#run_dir            = "/run/clusterd/agent"
#cgroup             = "/clusterd/w1"
#shim               = "/usr/bin/clusterd-shim"
#containerd_address = "/run/containerd/containerd.sock"
#gossip_port        = 7946

#log_level  = "info"
#log_format = "text"
