terraform {
  required_version = ">= 1.11"
  required_providers {
    clusterd = {
      source = "clusterd/clusterd"
    }
  }
}
