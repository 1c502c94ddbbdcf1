#!/bin/sh
# Writes the registry's pages to docs/ from the provider's schema and the
# examples. With --check it changes nothing, and fails if they are out of date.
set -eu
cd "$(dirname "$0")/.."
tool=github.com/hashicorp/terraform-plugin-docs/cmd/tfplugindocs@v0.25.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Terraform runs the provider of this tree, without init and without network.
go build -o "$work/bin/" ./provider/terraform-provider-clusterd
cat >"$work/dev.tfrc" <<RC
disable_checkpoint = true
provider_installation {
  dev_overrides { "clusterd/clusterd" = "$work/bin" }
}
RC
cat >"$work/main.tf" <<TF
terraform {
  required_providers {
    clusterd = { source = "clusterd/clusterd" }
  }
}
TF
TF_CLI_CONFIG_FILE="$work/dev.tfrc" terraform -chdir="$work" providers schema -json >"$work/all.json"
sed 's|registry.terraform.io/clusterd/clusterd|registry.terraform.io/hashicorp/clusterd|' "$work/all.json" >"$work/schema.json"

# The tool works on a copy: it reads examples/ and replaces docs/.
mkdir "$work/repo"
cp -r examples "$work/repo/"
(cd "$work/repo" && GOFLAGS=-mod=mod go run "$tool" generate --provider-dir . --provider-name clusterd \
  --rendered-provider-name clusterd --providers-schema "$work/schema.json" >"$work/log") || { cat "$work/log" >&2; exit 1; }

# What Terraform calls dynamic is an object to whoever writes it.
find "$work/repo/docs" -name '*.md' -exec sed -i \
  -e 's/ (Dynamic) \(.*\) An object of:$/ (Object) \1 An object of:/' \
  -e 's/ (Dynamic) \(.*\) A map of objects of:$/ (Map of Object) \1 A map of objects of:/' {} +

if [ "${1:-}" = --check ]; then
  for made in index.md resources data-sources ephemeral-resources functions; do
    diff -ru "docs/$made" "$work/repo/docs/$made" || { echo "docs/ is out of date: run provider/generate-docs.sh" >&2; exit 1; }
  done
  exit 0
fi
mkdir -p docs
rm -rf docs/index.md docs/resources docs/data-sources docs/ephemeral-resources docs/functions
cp -r "$work/repo/docs/." docs/
