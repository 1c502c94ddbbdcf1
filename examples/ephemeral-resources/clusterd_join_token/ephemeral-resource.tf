# For one machine that is made in this run: in no state and in no plan.
ephemeral "clusterd_join_token" "w9" {
  machine = "w9"
}

# What makes the machine takes it in a write-only argument, or a provisioner
# hands it over: nodeagent run --name w9 --token-file /etc/clusterd/join.token …
resource "terraform_data" "w9" {
  provisioner "local-exec" {
    command     = "umask 077 && printf %s \"$TOKEN\" >w9.token"
    environment = { TOKEN = ephemeral.clusterd_join_token.w9.token }
  }
}
