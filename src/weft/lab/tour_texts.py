"""What each step of the tour shows, in English and in French: two sentences at most."""

from typing import Literal

Language = Literal["en", "fr"]
LANGUAGES: tuple[Language, ...] = ("en", "fr")


def language(locale: str) -> Language:
    """Of a locale's name, as LANG has it: `fr_FR.UTF-8`."""
    return "fr" if locale.lower().startswith("fr") else "en"


TEXTS: dict[str, tuple[str, str]] = {
    "nodes": (
        "Three hosts are one swarm, and node1 is its manager. All that follows is the stock docker"
        " command.",
        "Trois hôtes forment un seul cluster, et node1 en est le manager. Tout ce qui suit est la"
        " commande docker ordinaire.",
    ),
    "networks": (
        "These are the networks that every swarm has. ingress is the overlay behind published ports;"
        " docker_gwbridge leads out of the cluster.",
        "Voici les réseaux présents dans tout cluster. ingress est l'overlay derrière les ports"
        " publiés ; docker_gwbridge mène hors du cluster.",
    ),
    "create": (
        "An overlay is one subnet over all hosts. No host has anything of it yet: it comes with the"
        " first task.",
        "Un overlay est un seul sous-réseau pour tous les hôtes. Aucun hôte n'en a encore rien : il"
        " arrive avec la première tâche.",
    ),
    "service": (
        "A web server in three replicas is attached to our overlay. Port 8080 of every host is"
        " published for its port 80.",
        "Un serveur web en trois réplicas est attaché à notre overlay. Le port 8080 de chaque hôte"
        " est publié pour son port 80.",
    ),
    "ps": (
        "The scheduler has spread the tasks. There is one on each host.",
        "L'ordonnanceur a réparti les tâches. Il y en a une sur chaque hôte.",
    ),
    "interfaces": (
        "Inside the container on node1 there are three interfaces instead of one. eth0 is on ingress,"
        " eth1 on our overlay, and eth2 leads out of the cluster.",
        "Dans le conteneur sur node1, il y a trois interfaces au lieu d'une. eth0 est sur ingress,"
        " eth1 sur notre overlay, et eth2 permet de sortir du cluster.",
    ),
    "subnets": (
        "Each of these addresses belongs to one of three subnets. That is how to tell which interface"
        " is on which network.",
        "Chacune de ces adresses appartient à l'un de trois sous-réseaux. On reconnaît ainsi à quel"
        " réseau est reliée chaque interface.",
    ),
    "mesh": (
        "From outside, through node1 alone, all three tasks answer in turn. Each sees the client's own"
        " address, 10.59.72.100.",
        "De l'extérieur, par node1 seul, les trois tâches répondent à tour de rôle. Chacune voit la"
        " vraie adresse du client, 10.59.72.100.",
    ),
    "everywhere": (
        "The port answers on every host. That is the routing mesh.",
        "Le port répond sur tous les hôtes. C'est le routing mesh.",
    ),
    "names": (
        "127.0.0.11 inside each container knows the tasks by this name. The service's own name gives"
        " its virtual address.",
        "Dans chaque conteneur, 127.0.0.11 connaît les tâches sous ce nom. Le nom du service donne son"
        " adresse virtuelle.",
    ),
    "ping": (
        "A container on node2 reaches every task over the overlay. It takes one hop, ttl 64, as on one"
        " wire.",
        "Un conteneur sur node2 atteint chaque tâche par l'overlay. Un seul saut, ttl 64, comme sur un"
        " même câble.",
    ),
    "vxlan": (
        "Meanwhile the underlay carries VXLAN: the container's Ethernet frame in a UDP datagram to port"
        " 4789. The VNI says which network it belongs to.",
        "Pendant ce temps, le réseau physique transporte du VXLAN : la trame Ethernet du conteneur dans"
        " un datagramme UDP vers le port 4789. Le VNI dit à quel réseau elle appartient.",
    ),
    "namespaces": (
        "Each overlay has a network namespace on each host that needs it. In it are a bridge, a VXLAN"
        " device, and a port for each container.",
        "Chaque overlay a un network namespace sur chaque hôte qui en a besoin. On y trouve un bridge,"
        " une interface VXLAN et un port par conteneur.",
    ),
    "rules": (
        "These rules choose a task for each new connection. There is no IPVS, and no masquerading that"
        " would hide the client.",
        "Ces règles choisissent une tâche pour chaque nouvelle connexion. Ni IPVS, ni masquerading qui"
        " cacherait le client.",
    ),
    "way": (
        "Here is the whole way of one packet, hop by hop, as the kernels have it now. Then a marked"
        " packet is sent along it, and each hop says when it passed.",
        "Voici tout le chemin d'un paquet, saut par saut, tel que les noyaux l'ont à cet instant. Puis"
        " un paquet marqué le parcourt, et chaque saut dit quand il est passé.",
    ),
    "scale": (
        "Now there are twice as many tasks. New connections go to all six.",
        "Il y a maintenant deux fois plus de tâches. Les nouvelles connexions vont vers les six.",
    ),
    "readable": (
        "Whoever sees the packets between the hosts can read them. So once more, encrypted: first the"
        " old service and network go.",
        "Qui voit les paquets entre les hôtes peut les lire. Recommençons donc, chiffré : l'ancien"
        " service et son réseau partent d'abord.",
    ),
    "sealed": (
        "One option more encrypts the network. A host gets its keys when a task of its own is on it.",
        "Une option de plus chiffre le réseau. Un hôte reçoit ses clés quand une de ses tâches y est"
        " reliée.",
    ),
    "again": (
        "This is the same service, now on the encrypted network. Nothing else of the command changes.",
        "C'est le même service, maintenant sur le réseau chiffré. Rien d'autre ne change dans la"
        " commande.",
    ),
    "engine": (
        "This line says what encrypts on this host: the kernel's IPsec where it has that, else a"
        " process of Weft's. On the wire they are the same.",
        "Cette ligne dit ce qui chiffre sur cet hôte : l'IPsec du noyau s'il l'a, sinon un processus de"
        " Weft. Sur le câble, c'est la même chose.",
    ),
    "addresses": (
        "The container has one address on ingress and one on the encrypted network.",
        "Le conteneur a une adresse sur ingress et une sur le réseau chiffré.",
    ),
    "mtu": (
        "The MTU is 1424 and not 1450. With what encryption adds, a full packet is 1500 octets on the"
        " underlay again.",
        "Le MTU est de 1424 et non de 1450. Avec ce que le chiffrement ajoute, un paquet plein fait de"
        " nouveau 1500 octets sur le réseau physique.",
    ),
    "ping-sealed": (
        "The containers notice nothing else. It is still one hop.",
        "Les conteneurs ne remarquent rien d'autre. C'est toujours un seul saut.",
    ),
    "esp": (
        "The underlay now carries ESP. Its numbers count up, and what is inside cannot be seen.",
        "Le réseau physique transporte maintenant de l'ESP. Les numéros augmentent, et le contenu ne se"
        " voit plus.",
    ),
    "nothing-clear": (
        "And in clear, as VXLAN with this network's VNI, there is nothing. The last lines say 0"
        " packets.",
        "Et en clair, en VXLAN avec le VNI de ce réseau, il n'y a rien. Les dernières lignes disent 0"
        " paquet.",
    ),
    "keys": (
        "The keys have numbers and ages. A new one every twelve hours is first known everywhere, and"
        " then used.",
        "Les clés ont un numéro et un âge. Toutes les douze heures, une nouvelle est d'abord connue"
        " partout, puis utilisée.",
    ),
    "behind": (
        "These are the namespaces behind it. 1-… are overlays, lb_… their load balancers, and esp_sbox"
        " is that of the userspace engine.",
        "Voici les namespaces qui se cachent derrière. 1-… sont les overlays, lb_… leurs répartiteurs"
        " de charge, et esp_sbox celui du chiffrement en espace utilisateur.",
    ),
    "inside": (
        "The bridge br0 connects the tunnel vxlan0 and the containers' ports. veth0 leads to the load"
        " balancer, and from veth1 on come the containers.",
        "Le bridge br0 relie le tunnel vxlan0 et les ports des conteneurs. veth0 mène au répartiteur de"
        " charge, et les conteneurs commencent à veth1.",
    ),
    "tunnel": (
        "The tunnel has its VNI, port 4789, and a proxy for ARP. It learns nothing: the manager has"
        " told who is where.",
        "Le tunnel a son VNI, le port 4789 et un proxy ARP. Il n'apprend rien : le manager a dit qui"
        " est où.",
    ),
    "cable": (
        "The container's eth1 is one end of a cable. The other end has this number in the list above,"
        " and is on br0.",
        "L'eth1 du conteneur est un bout d'un câble. L'autre bout porte ce numéro dans la liste"
        " ci-dessus, et se trouve sur br0.",
    ),
    "before": (
        "At that end, before it is encrypted, the container's traffic can be read.",
        "À ce bout-là, avant le chiffrement, on lit le trafic du conteneur.",
    ),
    "guard": (
        "This is why nothing gets out in clear: there is only one way out of here, and it leads to the"
        " encryption. Where the kernel encrypts, these rules see to it.",
        "Voilà pourquoi rien ne sort en clair : il n'y a qu'une sortie d'ici, et elle mène au"
        " chiffrement. Là où le noyau chiffre, ces règles y veillent.",
    ),
}
PHRASES: dict[str, tuple[str, str]] = {
    "next": ("Enter for the next step ", "Entrée pour l'étape suivante "),
    "step": ("step {number} of {count}", "étape {number} sur {count}"),
    "shell": (
        "You are on node1 now. Leave with exit.",
        "Vous êtes maintenant sur node1. Sortez avec exit.",
    ),
    "try": (
        """
Try next:
  weft lab shell node2          be at a host
  weft lab break any            break something, and find out what
  weft lab kill node1; weft lab exec client -- curl -s 10.59.72.12:8080/whoami; weft lab restart node1
                                the manager's daemon dies, the service goes on
  weft lab down                 take it all away
""",
        """
À essayer ensuite :
  weft lab shell node2          être sur un hôte
  weft lab break any            casser quelque chose, et trouver quoi
  weft lab kill node1; weft lab exec client -- curl -s 10.59.72.12:8080/whoami; weft lab restart node1
                                le démon du manager meurt, le service continue
  weft lab down                 tout enlever
""",
    ),
}


def text(name: str, spoken: Language) -> str:
    return TEXTS[name][LANGUAGES.index(spoken)]


def phrase(name: str, spoken: Language) -> str:
    return PHRASES[name][LANGUAGES.index(spoken)]
