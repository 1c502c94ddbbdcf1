# A token for this run alone: in no state, in no plan, and revoked at the end.
# Whoever runs Terraform may give no more than it has.
ephemeral "clusterd_token" "looker" {
  roles = ["looker"]
}

provider "clusterd" {
  alias = "looker"
  token = ephemeral.clusterd_token.looker.token
}

data "clusterd_apps" "all" {
  provider = clusterd.looker
}
