terraform {
  required_providers {
    clusterd = {
      source = "clusterd/clusterd"
    }
  }
}

# CLUSTERD_ADDR, CLUSTERD_TOKEN and CLUSTERD_CACERT say the same; on a local
# cluster, eval "$(clusterd dev env)" sets them.
provider "clusterd" {
  address   = "https://10.0.0.1:7443,https://10.0.0.2:7443" # any of several servers
  token     = var.clusterd_token
  ca_file   = "ca.crt"
  namespace = "default"
}

variable "clusterd_token" {
  type      = string
  sensitive = true
}
