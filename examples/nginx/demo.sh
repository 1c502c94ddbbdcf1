#!/bin/bash
# The demo: a three-node cluster on this machine, and nginx on it by Terraform.
#   demo.sh up      start it, or what of it is missing; may be repeated
#   demo.sh down    remove every trace
# It needs what `make build images` makes; `make demo` does it all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
clusterd=$root/bin/clusterd
terraform=${TERRAFORM:-terraform}

if [[ -t 1 ]]; then
	color=() bold=$'\033[1m' plain=$'\033[0m'
else
	color=(-no-color) bold='' plain=''
fi

say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

down() {
	"$clusterd" dev down
	cd "$here"
	rm -rf .terraform .terraform.lock.hcl terraform.tfstate terraform.tfstate.backup .terraform.tfstate.lock.info
}

up() {
	say "A cluster: one server, three nodes, each a network namespace with its own containerd"
	"$clusterd" dev up --nodes 3
	env=$("$clusterd" dev env)
	eval "$env"

	say "The images, onto every node"
	"$clusterd" image load "$root"/.cache/images/nginx-{1.0,2.0}.tar

	say "terraform apply, of examples/nginx"
	cd "$here"
	export TF_IN_AUTOMATION=1
	init=$("$terraform" init -input=false -upgrade -no-color 2>&1) || { echo "$init"; exit 1; }
	"$terraform" apply -input=false -auto-approve "${color[@]}"

	say "The cluster"
	"$clusterd" get nodes
	echo
	"$clusterd" get pods -o wide
	echo
	"$clusterd" get services

	say "An answer from each replica, through the node port"
	answers
	say "What to try next"
	next
}

# answers asks the service until every pod of the app has answered.
answers() {
	local want url page pod
	local -A seen=()
	want=$("$clusterd" get pods | awk '$2 == "1/1" && /^web-/ { n++ } END { print n + 0 }')
	mapfile -t urls < <("$terraform" output -json urls | tr -d '[]"' | tr ',' '\n')
	for try in $(seq 200); do
		url=${urls[$((try % ${#urls[@]}))]}
		page=$(curl -sS --max-time 5 "$url")
		pod=$(sed -n 's/.*answered by <b>\(.*\)<\/b>.*/\1/p' <<<"$page")
		if [[ -n $pod && -z ${seen[$pod]-} ]]; then
			seen[$pod]=1
			echo "$url  $(sed -n 's/.*<h1>\(.*\)<\/h1>.*/\1/p' <<<"$page"), answered by $pod"
		fi
		[[ ${#seen[@]} -lt $want ]] || return 0
	done
	echo "only ${#seen[@]} of $want replicas answered" >&2
	return 1
}

next() {
	cat <<'TRY'
  eval "$(bin/clusterd dev env)"; export PATH=$PWD/bin:$PATH
  cd examples/nginx
  terraform plan                               # no changes
  terraform apply -var image=nginx:2.0         # a rolling update; watch it with: clusterd get pods -w
  terraform apply -var image=nginx:nope        # fails with the cause; the old version still serves
  terraform apply -var replicas=5
  clusterd describe app web
  clusterd logs -f app/web
  clusterd dev node stop 2                     # as if its power was cut; then: clusterd get nodes -w
  clusterd dev node start 2
  make demo-down                               # in the repository's root: removes every trace
TRY
}

case ${1-} in
up | down) "$1" ;;
*) echo "usage: $0 up|down" >&2; exit 2 ;;
esac
