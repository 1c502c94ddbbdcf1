terraform {
  required_version = ">= 1.11"
  required_providers {
    clusterd = {
      source = "clusterd/clusterd"
    }
  }
}

# The module's volume outlives it. Declared here first, it goes with the test.
variable "name" {
  type = string
}

resource "clusterd_volume" "this" {
  name                = "${var.name}-data-0"
  size                = "1Gi"
  deletion_protection = false

  lifecycle {
    ignore_changes = [size] # it grows with the app
  }
}
