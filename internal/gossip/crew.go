package gossip

import (
	"fmt"
	"strconv"
	"strings"
)

// A crew is nodes behind one member: hollow ones, by the thousand in a process,
// would drown in each other's probes, and live and die with it anyway. What is
// heard of the member is heard of each of them.

const crewPrefix = "crew:"

// MaxCrew is how many nodes one member may speak for.
const MaxCrew = 20_000

// Crew returns what the member is called that speaks for n nodes, which are
// called CrewNode(name, 1) to CrewNode(name, n), and its metadata.
func Crew(name string, n int) (member string, meta []byte) {
	return crewPrefix + name, strconv.AppendInt(nil, int64(n), 10)
}

// CrewNode is the name of a crew's node.
func CrewNode(name string, i int) string { return fmt.Sprintf("%s-%d", name, i) }

// Crew returns the names of the nodes that m speaks for; most members speak for
// none.
func (m Member) Crew() []string {
	name, is := strings.CutPrefix(m.Name, crewPrefix)
	n, err := strconv.Atoi(string(m.Meta))
	if !is || err != nil || n < 0 || n > MaxCrew {
		return nil
	}
	nodes := make([]string, n)
	for i := range nodes {
		nodes[i] = CrewNode(name, i+1)
	}
	return nodes
}
