#!/usr/bin/env bash
# Runs on a spot machine: when the cloud says that it takes the machine back, Ray is told to drain this node, upon which
# trainings write a checkpoint and go on elsewhere (docs/guide/clusters.md). Started by aws.yaml and gcp.yaml on their workers.
#   spot_notice.sh aws|gcp
set -euo pipefail

every_s=${EQR_SPOT_EVERY_S:-5}
ask() { curl --silent --fail --max-time 2 "$@" 2>/dev/null; }

# AWS answers 404 until there is a notice; two minutes are left then.
aws_notice() {
    local token
    token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) || return 1
    ask -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/spot/instance-action >/dev/null
}

# Google Cloud answers FALSE until there is a notice; half a minute is left then.
gcp_notice() {
    [ "$(ask -H 'Metadata-Flavor: Google' http://metadata.google.internal/computeMetadata/v1/instance/preempted)" = TRUE ]
}

case "${1:-}" in
    aws) left_s=110 ;;
    gcp) left_s=25 ;;
    *) echo "usage: spot_notice.sh aws|gcp" >&2; exit 2 ;;
esac
until "$1_notice"; do sleep "$every_s"; done
echo "$(date -Is) this machine is taken back: draining it"
until ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice" \
    --deadline-remaining-seconds "$left_s"; do sleep 1; done
