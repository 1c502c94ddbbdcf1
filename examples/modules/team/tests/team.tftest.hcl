variables {
  name        = "bazaar-team"
  description = "Bazaar, on call: bazaar@example.com"
  quota       = { cpu = "2", memory = "2Gi", replicas = 20 }
}

run "grants" {
  assert {
    condition     = clusterd_namespace.this.quota.cpu == "2" && clusterd_namespace.this.defaults.memory == "128Mi"
    error_message = "The namespace has not got the quota and the defaults."
  }
  assert {
    condition     = output.namespace == "bazaar-team"
    error_message = "The namespace has another name."
  }
}

run "raises_the_quota_in_place" {
  variables {
    quota = { cpu = "4", memory = "2Gi", replicas = 20 }
  }
  assert {
    condition     = clusterd_namespace.this.quota.cpu == "4"
    error_message = "The quota was not raised."
  }
}

run "refuses_the_default_namespace" {
  command = plan
  variables {
    name = "default"
  }
  expect_failures = [var.name]
}

run "refuses_the_platforms_directories" {
  command = plan
  variables {
    powers = { host_paths = ["/etc/ssl"] }
  }
  expect_failures = [var.powers]
}

run "refuses_a_quota_that_is_none" {
  command = plan
  variables {
    quota = { cpu = "1m", memory = "2Gi" }
  }
  expect_failures = [var.quota]
}
