/* A frame made by hand: what a container with CAP_NET_RAW, a default capability, can put on its wire. */
#include "attempts.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { LONGEST = 1400, PORT = 40404 };

static uint16_t checksum(const uint16_t *words, int count)
{
    uint32_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return ~(sum + (sum >> 16));
}

/* INTERFACE MAC SOURCE DESTINATION PORT HEX: one UDP datagram, to that MAC, whatever the addresses. */
static const char *frame(char **words)
{
    struct { struct ether_header ether; struct iphdr ip; struct udphdr udp; char data[LONGEST]; }
        __attribute__((packed)) out = {0};
    int channel = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), size = strlen(words[5]) / 2;
    struct ifreq interface = {0};
    strncpy(interface.ifr_name, words[0], IFNAMSIZ - 1);
    if (channel < 0 || size > LONGEST || ioctl(channel, SIOCGIFHWADDR, &interface) < 0)
        return outcome(-1);
    unsigned char *mac = out.ether.ether_dhost;
    sscanf(words[1], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5);
    memcpy(out.ether.ether_shost, interface.ifr_hwaddr.sa_data, ETH_ALEN);
    out.ether.ether_type = htons(ETHERTYPE_IP);
    for (int i = 0; i < size; i++)
        sscanf(words[5] + 2 * i, "%2hhx", (unsigned char *)out.data + i);
    int udp_size = sizeof out.udp + size;
    out.udp = (struct udphdr){{{htons(PORT), htons(atoi(words[4])), htons(udp_size), 0}}};
    struct iphdr ip = {.version = 4, .ihl = 5, .tot_len = htons(sizeof out.ip + udp_size), .ttl = 64};
    ip.protocol = IPPROTO_UDP;
    ip.saddr = inet_addr(words[2]);
    ip.daddr = inet_addr(words[3]);
    ip.check = checksum((const uint16_t *)&ip, sizeof ip / 2);
    out.ip = ip;
    ioctl(channel, SIOCGIFINDEX, &interface);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = interface.ifr_ifindex};
    return outcome(sendto(channel, &out, sizeof out - LONGEST + size, 0, (struct sockaddr *)&to, sizeof to));
}

const struct attempt frames[] = {{"frame", frame, true}, {0}};
