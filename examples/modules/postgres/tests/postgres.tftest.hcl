variables {
  name                = "module-db"
  deletion_protection = false
}

# Its data would stay, as it is meant to, if the test did not declare the volume.
run "declares_the_volume" {
  module {
    source = "./tests/volume"
  }
}

run "runs" {
  assert {
    condition     = clusterd_app.this.mounts["/var/lib/postgresql/data"].volume == "module-db-data"
    error_message = "The data is not on a volume."
  }
  assert {
    condition     = output.password == "module-db/password" && startswith(output.host, "module-db.")
    error_message = "Apps would not find the database."
  }
}

run "grows" {
  variables {
    storage = "2Gi"
  }
  assert {
    condition     = clusterd_app.this.mounts["/var/lib/postgresql/data"].size == "2Gi"
    error_message = "The volume did not grow."
  }
}

run "refuses_a_volume_that_is_too_small" {
  command = plan
  variables {
    storage = "16Mi"
  }
  expect_failures = [var.storage]
}
