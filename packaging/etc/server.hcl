# Settings of clusterd server. Each is a flag too (clusterd server --help), and
# a variable, such as CLUSTERD_ADVERTISE in server.env; a flag wins over a
# variable, and that over this file. What is commented out shows the defaults,
# or an example where there is none.

#data_dir = "/var/lib/clusterd/server"

# The machine's host name and first address, unless they are given.
#name      = "s1"
#advertise = "10.0.0.1"

# A server of a cluster to join, with the CLUSTERD_JOIN_TOKEN of server.env or
# in a file. Only the first start needs them.
#join       = ["10.0.0.1"]
#token_file = "/etc/clusterd/join-token"

#listen = ":7443"
#peer   = "7444"
#gossip = ":7946"

# An etcd that you run, to have the cluster's state instead of the servers.
#etcd_endpoints     = ["https://10.0.0.11:2379", "https://10.0.0.12:2379"]
#etcd_prefix        = "/clusterd"
#etcd_ca_file       = "/etc/clusterd/etcd-ca.crt"
#etcd_cert_file     = "/etc/clusterd/etcd-client.crt"
#etcd_key_file      = "/etc/clusterd/etcd-client.key"
#etcd_username      = "clusterd"
#etcd_password_file = "/etc/clusterd/etcd-password"

# More names and addresses by which the API is reached.
#host = ["clusterd.example.com"]

# Networks of pods and services. They are the cluster's, from its first start on.
#pods     = "10.244.0.0/16"
#services = "10.96.0.0/16"

#lease = "20s"

# Who did what, a line of JSON each; "off" for none.
#audit_log = "/var/lib/clusterd/server/audit.log"

#log_level  = "info"
#log_format = "text"
