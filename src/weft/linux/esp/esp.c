/*
 * The packet work of the userspace ESP engine: RFC 4303 transport mode with AES-GCM (RFC 4106) between a TAP device and a raw
 * socket of protocol 50. Loaded by helper.py with ctypes; weft/esp/ is the same in Python and says what is right.
 *
 * A `sealer` belongs to the thread that reads the TAP, an `opener` to the one that reads the raw socket. Nothing is shared, so
 * nothing is locked: between two calls of *_run its thread may change the tables. Only the counters may be read from elsewhere.
 *
 *     sealer: TAP frame -> outer headers checked, VNI allowed, association found -> TCP segments made, checksums -> sealed -> raw
 *     opener: raw packet -> SPI and source, replay window -> opened -> VXLAN checked, VNI allowed -> in-order TCP joined -> TAP
 *
 * Whatever comes from the network is not believed: each length is compared with what is there before it is used.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of libcrypto, declared here so that its runtime library is enough to build. */
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
extern EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
extern void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *);
extern int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *);
extern const EVP_CIPHER *EVP_aes_128_gcm(void), *EVP_aes_256_gcm(void);
extern int EVP_CipherInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *, int);
extern int EVP_CipherUpdate(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int);
extern int EVP_CipherFinal_ex(EVP_CIPHER_CTX *, uint8_t *, int *);
extern void OPENSSL_cleanse(void *, size_t);
enum { GET_TAG = 0x10, SET_TAG = 0x11 };

enum {
    BATCH = 64,                 /* packets for one sendmmsg or recvmmsg */
    BUDGET = 256,               /* frames between two looks at the wake-up descriptor */
    LARGEST = 65535,            /* an IPv4 packet */
    SLOT = LARGEST + 1 + 2048,  /* no multiple of 4096: slots shall not fall on the same lines of the cache */
    HEADROOM = 64,              /* before a received packet: the TAP's header is longer than what it replaces */
    BUCKETS = 1024,
    WINDOW = 4096,              /* bits of the replay window */
    WORDS = WINDOW / 64 + 1,    /* it seldom begins where a word does */
    IP = 20, UDP = 8, ESP = 16, ETHERNET = 14, VXLAN = 8,
    VNET = 24,                  /* struct virtio_net_hdr_v1_hash_tunnel */
    INNER_IP = UDP + VXLAN + ETHERNET,
    TCP_MIN = 20,
};
#define SEQUENCE_END (1ull << 32)

enum { /* the order of helper.py's COUNTERS */
    SEALED, OPENED, REPLAYED, MALFORMED, FORGED, UNKNOWN_SPI, WRONG_VNI, NO_ASSOCIATION, EXHAUSTED, UNRESERVED, LOST, COUNTERS
};

/* virtio_net.h */
enum { F_NEEDS_CSUM = 1, GSO_TCPV4 = 1, GSO_ECN = 0x80, GSO_TUNNEL_IPV4 = 0x20, GSO_TUNNEL = 0x60 };
enum { FIN = 1, PSH = 8, ACK = 0x10, CWR = 0x80 };

struct association {
    struct association *chain;
    uint32_t peer;              /* network order */
    uint32_t spi;
    unsigned icv;               /* octets */
    uint8_t salt[4];
    EVP_CIPHER_CTX *cipher;
    uint64_t next, low, end;    /* outbound: numbers reserved; at `low` more are asked for */
    uint64_t spare_next, spare_end;
    uint64_t top, seen[WORDS]; /* inbound: RFC 4303 section 3.4.3, bits in a ring */
};

struct vni { uint32_t number; uint32_t icv; };

struct tables {
    uint64_t counters[COUNTERS];
    struct association *buckets[BUCKETS];
    struct vni *vnis;           /* in order of their numbers */
    size_t vni_count;
    uint32_t local;             /* network order */
    uint16_t port;
    unsigned vnet;              /* octets of header before a TAP frame: VNET, or 0 without offload */
};

static void count(struct tables *t, int what, uint64_t by) { __atomic_fetch_add(&t->counters[what], by, __ATOMIC_RELAXED); }

/* ---- octets ---- */

static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
static void put16(uint8_t *p, unsigned v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static void put32(uint8_t *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
static unsigned get16_host(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static void put16_host(uint8_t *p, unsigned v) { uint16_t w = (uint16_t)v; memcpy(p, &w, 2); }

/* Sums for RFC 1071 are kept in the order of the machine: the result is stored as it is. */
static uint64_t sum(const uint8_t *p, size_t length)
{
    uint64_t total = 0;
    uint32_t word;
    for (; length >= 4; p += 4, length -= 4) {
        memcpy(&word, p, 4);
        total += word;
    }
    word = 0;
    memcpy(&word, p, length);
    return total + word;
}

static unsigned fold(uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (unsigned)total;
}

static uint64_t pseudo_header(const uint8_t *ip, size_t length, unsigned protocol)
{
    return sum(ip + 12, 8) + htons((uint16_t)protocol) + htons((uint16_t)length);
}

static void set_ip_length(uint8_t *ip, size_t header, size_t length)
{
    put16(ip + 2, (unsigned)length);
    put16(ip + 10, 0);
    put16_host(ip + 10, ~fold(sum(ip, header)));
}

/* ---- tables ---- */

static struct association **bucket(struct tables *t, uint32_t peer, uint32_t number)
{
    return &t->buckets[((peer ^ peer >> 16) * 2654435761u + (number ^ number >> 16)) % BUCKETS];
}

static void drop(struct association *a)
{
    EVP_CIPHER_CTX_free(a->cipher);
    OPENSSL_cleanse(a, sizeof *a);
    free(a);
}

static struct association *new_association(uint32_t peer, uint32_t spi, unsigned icv, const uint8_t *key, unsigned length, int seals)
{
    const EVP_CIPHER *cipher = length == 36 ? EVP_aes_256_gcm() : length == 20 ? EVP_aes_128_gcm() : NULL;
    struct association *a = cipher && (icv == 8 || icv == 16) ? calloc(1, sizeof *a) : NULL;
    if (!a)
        return NULL;
    a->peer = peer;
    a->spi = spi;
    a->icv = icv;
    memcpy(a->salt, key + length - 4, 4);
    a->cipher = EVP_CIPHER_CTX_new();
    if (!a->cipher || EVP_CipherInit_ex(a->cipher, cipher, NULL, key, NULL, seals) != 1) {
        drop(a);
        return NULL;
    }
    return a;
}

static void link_association(struct association **first, struct association *a) { a->chain = *first; *first = a; }

/* Outbound ones are found by peer and length of the ICV, inbound ones by peer and SPI. */
static struct association *outbound(struct tables *t, uint32_t peer, unsigned icv)
{
    struct association *a = *bucket(t, peer, icv);
    while (a && !(a->peer == peer && a->icv == icv))
        a = a->chain;
    return a;
}

static struct association *inbound(struct tables *t, uint32_t peer, uint32_t spi)
{
    struct association *a = *bucket(t, peer, spi);
    while (a && !(a->peer == peer && a->spi == spi))
        a = a->chain;
    return a;
}

static void remove_association(struct association **first, uint32_t peer, uint32_t spi, unsigned icv)
{
    for (struct association **at = first; *at; at = &(*at)->chain)
        if ((*at)->peer == peer && (*at)->spi == spi && (*at)->icv == icv) {
            struct association *gone = *at;
            *at = gone->chain;
            drop(gone);
            return;
        }
}

static int set_vnis(struct tables *t, const uint32_t *numbers, const uint32_t *icvs, size_t n)
{
    struct vni *vnis = calloc(n ? n : 1, sizeof *vnis);
    if (!vnis)
        return -1;
    for (size_t i = 0; i < n; i++)
        vnis[i] = (struct vni){ numbers[i], icvs[i] };
    free(t->vnis);
    t->vnis = vnis;
    t->vni_count = n;
    return 0;
}

static void free_tables(struct tables *t)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct association *a = t->buckets[i], *after; a; a = after) {
            after = a->chain;
            drop(a);
        }
    free(t->vnis);
}

/* Octets of ICV that the VNI of a datagram demands, 0 if it is none of ours. `udp` has `length` >= UDP + VXLAN octets. */
static unsigned demanded_icv(const struct tables *t, const uint8_t *udp)
{
    if (get16(udp + 2) != t->port || !(udp[UDP] & 8)) /* RFC 7348 section 5: the I flag */
        return 0;
    uint32_t number = get32(udp + UDP + 4) >> 8;
    size_t low = 0, high = t->vni_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (t->vnis[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->vni_count && t->vnis[low].number == number ? t->vnis[low].icv : 0;
}

/* ---- one packet ---- */

/* Seals the datagram of `length` octets at esp + ESP where it stands. Octets of the whole, 0 if libcrypto failed. */
static size_t seal(struct association *a, uint64_t sequence, uint8_t *esp, size_t length)
{
    uint8_t nonce[12], *text = esp + ESP;
    size_t padding = -(length + 2) & 3; /* RFC 4303 section 2.4 */
    int n;
    for (size_t i = 0; i < padding; i++)
        text[length + i] = (uint8_t)(i + 1);
    text[length + padding] = (uint8_t)padding;
    text[length + padding + 1] = IPPROTO_UDP;
    length += padding + 2;
    put32(esp, a->spi);
    put32(esp + 4, (uint32_t)sequence);
    put32(esp + 8, (uint32_t)(sequence >> 32));
    put32(esp + 12, (uint32_t)sequence);
    memcpy(nonce, a->salt, 4);
    memcpy(nonce + 4, esp + 8, 8);
    if (EVP_CipherInit_ex(a->cipher, NULL, NULL, NULL, nonce, 1) != 1
        || EVP_CipherUpdate(a->cipher, NULL, &n, esp, 8) != 1 /* RFC 4106 section 5: SPI and number are authenticated */
        || EVP_CipherUpdate(a->cipher, text, &n, text, (int)length) != 1
        || EVP_CipherFinal_ex(a->cipher, text + length, &n) != 1
        || EVP_CIPHER_CTX_ctrl(a->cipher, GET_TAG, (int)a->icv, text + length) != 1)
        return 0;
    return ESP + length + a->icv;
}

static int is_fresh(const struct association *a, uint64_t q)
{
    return q && (q > a->top || (a->top - q < WINDOW && !(a->seen[q / 64 % WORDS] >> q % 64 & 1)));
}

static void mark(struct association *a, uint64_t q)
{
    if (q > a->top) {
        uint64_t word = a->top / 64 + 1, last = q / 64;
        if (last >= word + WORDS)
            word = last - WORDS + 1;
        for (; word <= last; word++)
            a->seen[word % WORDS] = 0;
        a->top = q;
    }
    a->seen[q / 64 % WORDS] |= 1ull << q % 64;
}

/* Opens the ESP packet where it stands. Octets of the datagram at esp + ESP, 0 if it was counted and is to be dropped. */
static size_t open_packet(struct tables *t, struct association *a, uint8_t *esp, size_t length)
{
    uint8_t nonce[12], *text = esp + ESP;
    int n;
    if (length < ESP + 4 + a->icv || (length - ESP - a->icv) % 4)
        return count(t, MALFORMED, 1), 0;
    size_t sealed = length - ESP - a->icv;
    uint64_t sequence = get32(esp + 4);
    if (!is_fresh(a, sequence))
        return count(t, REPLAYED, 1), 0;
    memcpy(nonce, a->salt, 4);
    memcpy(nonce + 4, esp + 8, 8);
    if (EVP_CipherInit_ex(a->cipher, NULL, NULL, NULL, nonce, 0) != 1
        || EVP_CIPHER_CTX_ctrl(a->cipher, SET_TAG, (int)a->icv, text + sealed) != 1
        || EVP_CipherUpdate(a->cipher, NULL, &n, esp, 8) != 1
        || EVP_CipherUpdate(a->cipher, text, &n, text, (int)sealed) != 1
        || EVP_CipherFinal_ex(a->cipher, text + sealed, &n) != 1)
        return count(t, FORGED, 1), 0;
    mark(a, sequence);
    size_t padding = text[sealed - 2];
    if (text[sealed - 1] != IPPROTO_UDP || padding + 2 + UDP + VXLAN > sealed)
        return count(t, MALFORMED, 1), 0;
    size_t datagram = sealed - 2 - padding;
    for (size_t i = 0; i < padding; i++)
        if (text[datagram + i] != i + 1)
            return count(t, MALFORMED, 1), 0;
    if (get16(text + 4) != datagram)
        return count(t, MALFORMED, 1), 0;
    if (demanded_icv(t, text) != a->icv)
        return count(t, WRONG_VNI, 1), 0;
    return datagram;
}

/* ---- outbound ---- */

struct sealer {
    struct tables t;
    int low_fd;                 /* an eventfd: some association asks for more numbers */
    size_t filled;
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in peers[BATCH];
    uint8_t *slots, *frame;
    uint8_t *sink;              /* instead of a socket: packets, each after four octets of its length */
    size_t sink_left;
};

void esp_sealer_free(struct sealer *s)
{
    free_tables(&s->t);
    free(s->slots);
    free(s->frame);
    free(s);
}

struct sealer *esp_sealer_new(uint32_t local, uint16_t port, unsigned vnet, int low_fd)
{
    struct sealer *s = vnet == VNET || vnet == 0 ? calloc(1, sizeof *s) : NULL;
    if (!s)
        return NULL;
    s->t.local = local;
    s->t.port = port;
    s->t.vnet = vnet;
    s->low_fd = low_fd;
    s->slots = malloc((size_t)BATCH * SLOT);
    s->frame = malloc(VNET + ETHERNET + LARGEST);
    if (!s->slots || !s->frame) {
        esp_sealer_free(s);
        return NULL;
    }
    for (size_t i = 0; i < BATCH; i++) {
        s->peers[i].sin_family = AF_INET;
        s->vectors[i].iov_base = s->slots + i * SLOT;
        s->messages[i].msg_hdr.msg_name = &s->peers[i];
        s->messages[i].msg_hdr.msg_namelen = sizeof s->peers[i];
        s->messages[i].msg_hdr.msg_iov = &s->vectors[i];
        s->messages[i].msg_hdr.msg_iovlen = 1;
    }
    return s;
}

static void reserve(struct association *a, uint64_t next, uint64_t end)
{
    a->next = next;
    a->end = end;
    a->low = next + (end - next) / 2;
}

int esp_sealer_add(struct sealer *s, uint32_t peer, uint32_t spi, unsigned icv, const uint8_t *key, unsigned length, uint64_t next, uint64_t end)
{
    struct association *a = next <= end && end <= SEQUENCE_END ? new_association(peer, spi, icv, key, length, 1) : NULL;
    if (!a)
        return -1;
    reserve(a, next, end);
    link_association(bucket(&s->t, peer, icv), a);
    return 0;
}

void esp_sealer_remove(struct sealer *s, uint32_t peer, uint32_t spi, unsigned icv)
{
    remove_association(bucket(&s->t, peer, icv), peer, spi, icv);
}

/* Whether the association has come half way through its numbers and has no others. */
int esp_sealer_is_low(struct sealer *s, uint32_t peer, unsigned icv)
{
    struct association *a = outbound(&s->t, peer, icv);
    return a && a->next >= a->low && a->end < SEQUENCE_END && !a->spare_end;
}

void esp_sealer_extend(struct sealer *s, uint32_t peer, unsigned icv, uint64_t next, uint64_t end)
{
    struct association *a = outbound(&s->t, peer, icv);
    if (a && next <= end && end <= SEQUENCE_END) {
        a->spare_next = next;
        a->spare_end = end;
    }
}

int esp_sealer_set_vnis(struct sealer *s, const uint32_t *numbers, const uint32_t *icvs, size_t n) { return set_vnis(&s->t, numbers, icvs, n); }
uint64_t esp_sealer_counter(struct sealer *s, unsigned which) { return which < COUNTERS ? __atomic_load_n(&s->t.counters[which], __ATOMIC_RELAXED) : 0; }

/* The next sequence number, 0 if there is none. */
static uint64_t take(struct sealer *s, struct association *a)
{
    if (a->next == a->end && a->spare_end) {
        reserve(a, a->spare_next, a->spare_end);
        a->spare_next = a->spare_end = 0;
    }
    if (a->next == a->end) {
        count(&s->t, a->end == SEQUENCE_END ? EXHAUSTED : UNRESERVED, 1);
        return 0;
    }
    if (a->next == a->low && a->end < SEQUENCE_END && s->low_fd >= 0) {
        uint64_t one = 1;
        ssize_t ignored = write(s->low_fd, &one, sizeof one); /* full means that it is asked for already */
        (void)ignored;
    }
    return a->next++;
}

static void pour(struct sealer *s)
{
    for (size_t i = 0; i < s->filled; i++) {
        size_t length = s->vectors[i].iov_len;
        if (s->sink_left < length + 4)
            return;
        put32(s->sink, (uint32_t)length);
        memcpy(s->sink + 4, s->vectors[i].iov_base, length);
        s->sink += length + 4;
        s->sink_left -= length + 4;
    }
}

/* Sends what is in the slots. A packet that the kernel does not take at once is lost, as on any wire: nothing waits for a peer. */
static void flush(struct sealer *s, int raw)
{
    if (s->sink)
        pour(s);
    for (size_t done = 0; raw >= 0 && done < s->filled;) {
        int sent = sendmmsg(raw, s->messages + done, (unsigned)(s->filled - done), MSG_DONTWAIT);
        if (sent > 0) {
            done += (size_t)sent;
            count(&s->t, SEALED, (uint64_t)sent);
        } else if (errno != EINTR) {
            done++;
            count(&s->t, LOST, 1);
        }
    }
    s->filled = 0;
}

static uint8_t *slot(struct sealer *s) { return s->vectors[s->filled].iov_base; }

/* Seals the datagram that lies in the current slot behind the room for the ESP header. */
static void seal_slot(struct sealer *s, struct association *a, size_t length, int raw)
{
    uint64_t sequence = take(s, a);
    size_t total = sequence ? seal(a, sequence, slot(s), length) : 0;
    if (!total)
        return;
    s->vectors[s->filled].iov_len = total;
    s->peers[s->filled].sin_addr.s_addr = a->peer;
    if (++s->filled == BATCH)
        flush(s, raw);
}

/* The segments of a TCP datagram that was left whole for us. `offset` of a header counts from the datagram's first octet. */
static int segment(struct sealer *s, struct association *a, const uint8_t *udp, size_t length, const uint8_t *vnet, int raw)
{
    size_t base = ETHERNET + IP, size = get16_host(vnet + 4), tcp = get16_host(vnet + 6), ip = get16_host(vnet + 22);
    if (ip < base + INNER_IP || tcp < ip + IP || size == 0)
        return -1;
    ip -= base, tcp -= base;
    if (tcp + TCP_MIN > length || (udp[ip] & 15u) * 4 != tcp - ip)
        return -1;
    size_t headers = tcp + (udp[tcp + 12] >> 4) * 4;
    if (headers < tcp + TCP_MIN || headers >= length || headers + size > LARGEST - IP - ESP - 32)
        return -1;
    unsigned identification = get16(udp + ip + 4), flags = udp[tcp + 13];
    uint32_t sequence = get32(udp + tcp + 4);
    for (size_t at = headers, i = 0; at < length; at += size, i++) {
        size_t payload = length - at < size ? length - at : size, total = headers + payload;
        uint8_t *q = slot(s) + ESP;
        memcpy(q, udp, headers);
        memcpy(q + headers, udp + at, payload);
        put16(q + 4, (unsigned)total);
        put16(q + 6, 0); /* no checksum of the outer UDP header, as RFC 7348 section 4.3 has it: the ICV covers more */
        put16(q + ip + 4, (unsigned)(identification + i));
        set_ip_length(q + ip, tcp - ip, total - ip);
        put32(q + tcp + 4, (uint32_t)(sequence + (at - headers)));
        q[tcp + 13] = (uint8_t)(flags & ~((at + payload < length ? FIN | PSH : 0u) | (i ? CWR : 0u)));
        put16(q + tcp + 16, 0);
        put16_host(q + tcp + 16, ~fold(sum(q + tcp, total - tcp) + pseudo_header(q + ip, total - tcp, IPPROTO_TCP)));
        seal_slot(s, a, total, raw);
    }
    return 0;
}

/* Completes a checksum that was left to us. Offsets in `vnet` count from the Ethernet header. */
static int complete_checksum(uint8_t *udp, size_t length, const uint8_t *vnet)
{
    size_t start = get16_host(vnet + 6), field = start + get16_host(vnet + 8), base = ETHERNET + IP;
    if (start < base || start - base > length || field < base || field - base + 2 > length)
        return -1;
    unsigned value = ~fold(sum(udp + start - base, length - (start - base))) & 0xffff;
    put16_host(udp + field - base, value ? value : 0xffff); /* for UDP zero would mean: none */
    return 0;
}

/* One frame from the TAP, `length` octets with its header. */
static void seal_frame(struct sealer *s, uint8_t *frame, size_t length, int raw)
{
    struct tables *t = &s->t;
    if (length < t->vnet + ETHERNET + IP + UDP + VXLAN)
        return count(t, WRONG_VNI, 1);
    uint8_t *ip = frame + t->vnet + ETHERNET, *udp = ip + IP;
    size_t datagram = length - t->vnet - ETHERNET - IP;
    uint32_t source, peer;
    if (get16(ip - 2) != 0x0800 || ip[0] != 0x45 || ip[9] != IPPROTO_UDP || get16(ip + 6) & 0x3fff)
        return count(t, WRONG_VNI, 1);
    unsigned icv = demanded_icv(t, udp), kind = t->vnet ? frame[1] & ~GSO_ECN : 0;
    if (!icv)
        return count(t, WRONG_VNI, 1);
    memcpy(&source, ip + 12, 4);
    memcpy(&peer, ip + 16, 4);
    struct association *a = source == t->local ? outbound(t, peer, icv) : NULL;
    if (!a)
        return count(t, NO_ASSOCIATION, 1);
    if (kind == (GSO_TCPV4 | GSO_TUNNEL_IPV4)) {
        if (segment(s, a, udp, datagram, frame, raw))
            count(t, MALFORMED, 1);
        return;
    }
    size_t stated = get16(udp + 4); /* an Ethernet frame may be longer than what it carries */
    if (kind || stated < UDP + VXLAN || stated > datagram || stated > LARGEST - IP - ESP - 32
        || (t->vnet && frame[0] & F_NEEDS_CSUM && complete_checksum(udp, stated, frame)))
        return count(t, MALFORMED, 1);
    memcpy(slot(s) + ESP, udp, stated);
    seal_slot(s, a, stated, raw);
}

/* Seals what comes until `wake` is readable. 0, or an errno if the TAP is gone. */
int esp_sealer_run(struct sealer *s, int tap, int raw, int wake)
{
    struct pollfd ready[] = { { tap, POLLIN, 0 }, { wake, POLLIN, 0 } };
    for (;;) {
        for (int i = 0; i < BUDGET; i++) {
            ssize_t n = read(tap, s->frame, VNET + ETHERNET + LARGEST);
            if (n < 0 && errno != EINTR && errno != EAGAIN)
                return errno;
            if (n < 0)
                break;
            seal_frame(s, s->frame, (size_t)n, raw);
        }
        flush(s, raw);
        if (poll(ready, 2, -1) > 0 && ready[1].revents)
            return 0;
    }
}

/* For tests: the packets of one frame, each after four octets of its length. Octets written, -1 if the frame is too long. */
ptrdiff_t esp_sealer_frame(struct sealer *s, const uint8_t *frame, size_t length, uint8_t *out, size_t room)
{
    if (length > VNET + ETHERNET + LARGEST)
        return -1;
    memcpy(s->frame, frame, length);
    s->sink = out;
    s->sink_left = room;
    seal_frame(s, s->frame, length, -1);
    flush(s, -1);
    s->sink = NULL;
    return (ptrdiff_t)(room - s->sink_left);
}

/* ---- inbound ---- */

/* TCP segments of one connection that follow each other, to be given to the kernel as one. */
struct run {
    size_t count;
    struct iovec vectors[BATCH + 1];
    uint8_t *first;             /* IP header of the first packet */
    size_t length;              /* of the whole, from there */
    size_t tcp, headers, size;  /* offset of the TCP header, of its payload; payload of each but the last */
    uint32_t next;              /* TCP sequence number that would follow */
    int closed;                 /* nothing may follow */
};

struct opener {
    struct tables t;
    uint8_t mac[6];
    struct run run;
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    uint8_t *slots;
};

void esp_opener_free(struct opener *o)
{
    free_tables(&o->t);
    free(o->slots);
    free(o);
}

struct opener *esp_opener_new(uint32_t local, uint16_t port, unsigned vnet, const uint8_t *mac)
{
    struct opener *o = vnet == VNET || vnet == 0 ? calloc(1, sizeof *o) : NULL;
    if (!o)
        return NULL;
    o->t.local = local;
    o->t.port = port;
    o->t.vnet = vnet;
    memcpy(o->mac, mac, 6);
    o->slots = malloc((size_t)BATCH * SLOT);
    if (!o->slots) {
        esp_opener_free(o);
        return NULL;
    }
    for (size_t i = 0; i < BATCH; i++) {
        o->vectors[i] = (struct iovec){ o->slots + i * SLOT + HEADROOM, LARGEST };
        o->messages[i].msg_hdr.msg_iov = &o->vectors[i];
        o->messages[i].msg_hdr.msg_iovlen = 1;
    }
    return o;
}

int esp_opener_add(struct opener *o, uint32_t peer, uint32_t spi, unsigned icv, const uint8_t *key, unsigned length)
{
    struct association *a = new_association(peer, spi, icv, key, length, 0);
    if (!a)
        return -1;
    link_association(bucket(&o->t, peer, spi), a);
    return 0;
}

void esp_opener_remove(struct opener *o, uint32_t peer, uint32_t spi, unsigned icv) { remove_association(bucket(&o->t, peer, spi), peer, spi, icv); }
int esp_opener_set_vnis(struct opener *o, const uint32_t *numbers, const uint32_t *icvs, size_t n) { return set_vnis(&o->t, numbers, icvs, n); }
uint64_t esp_opener_counter(struct opener *o, unsigned which) { return which < COUNTERS ? __atomic_load_n(&o->t.counters[which], __ATOMIC_RELAXED) : 0; }

/* Opens a packet as a raw socket gives it. The IP packet that was inside, `*length` octets, or NULL if it was dropped. Overwrites
 * up to HEADROOM octets before and all of it. */
static uint8_t *open_ip(struct opener *o, uint8_t *packet, size_t *length)
{
    struct tables *t = &o->t;
    size_t header = *length ? (packet[0] & 15u) * 4 : 0;
    uint32_t source;
    if (header < IP || packet[0] >> 4 != 4 || *length < header + 8)
        return count(t, MALFORMED, 1), NULL;
    memcpy(&source, packet + 12, 4);
    struct association *a = inbound(t, source, get32(packet + header));
    if (!a)
        return count(t, UNKNOWN_SPI, 1), NULL;
    size_t datagram = open_packet(t, a, packet + header, *length - header);
    if (!datagram)
        return NULL;
    uint8_t *ip = packet + header + ESP - IP, tos = packet[1], ttl = packet[8];
    memset(ip, 0, IP);
    ip[0] = 0x45;
    ip[1] = tos;
    ip[8] = ttl;
    ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &source, 4);
    memcpy(ip + 16, &t->local, 4);
    set_ip_length(ip, IP, IP + datagram);
    *length = IP + datagram;
    return ip;
}

/* Gives the run to the kernel. */
static void deliver(struct opener *o, int tap)
{
    struct run *r = &o->run;
    uint8_t header[VNET + ETHERNET] = { 0 }, *ip = r->first, *ethernet = header + o->t.vnet;
    if (!r->count)
        return;
    memcpy(ethernet, o->mac, 6);
    memcpy(ethernet + 6, o->mac, 6);
    put16(ethernet + 12, 0x0800);
    if (r->count > 1) {
        size_t inner = IP + INNER_IP, tcp = r->tcp;
        set_ip_length(ip, IP, r->length);
        put16(ip + IP + 4, (unsigned)(r->length - IP));
        put16(ip + IP + 6, 0);
        set_ip_length(ip + inner, tcp - inner, r->length - inner);
        put16_host(ip + tcp + 16, fold(pseudo_header(ip + inner, r->length - tcp, IPPROTO_TCP)));
        header[0] = F_NEEDS_CSUM;
        header[1] = GSO_TCPV4 | GSO_TUNNEL_IPV4;
        put16_host(header + 2, (unsigned)(r->headers + ETHERNET));
        put16_host(header + 4, (unsigned)r->size);
        put16_host(header + 6, (unsigned)(tcp + ETHERNET));
        put16_host(header + 8, 16);
        put16_host(header + 20, IP + ETHERNET);
        put16_host(header + 22, (unsigned)(inner + ETHERNET));
    }
    r->vectors[0] = (struct iovec){ header, o->t.vnet + ETHERNET };
    count(&o->t, writev(tap, r->vectors, (int)r->count + 1) < 0 ? LOST : OPENED, r->count);
    r->count = 0;
}

/* Whether the packet is a TCP segment that may be joined with others: no options in IP, no flag but ACK and PSH, payload, and a
 * right checksum, which joining would hide. */
static int is_joinable(const uint8_t *ip, size_t length)
{
    size_t inner = IP + INNER_IP, tcp = inner + IP;
    if (length < tcp + TCP_MIN || get16(ip + inner - 2) != 0x0800 || ip[inner] != 0x45 || ip[inner + 9] != IPPROTO_TCP
        || get16(ip + inner + 2) != length - inner || get16(ip + inner + 6) & 0x3fff || (ip[tcp + 13] & ~PSH) != ACK)
        return 0;
    size_t headers = tcp + (ip[tcp + 12] >> 4) * 4;
    return headers >= tcp + TCP_MIN && headers < length && fold(sum(ip + inner, IP)) == 0xffff
        && fold(sum(ip + tcp, length - tcp) + pseudo_header(ip + inner, length - tcp, IPPROTO_TCP)) == 0xffff;
}

static int follows(const struct run *r, const uint8_t *ip, size_t length)
{
    const uint8_t *a = r->first;
    size_t inner = IP + INNER_IP, tcp = inner + IP, headers = tcp + (ip[tcp + 12] >> 4) * 4, payload = length - headers;
    return !r->closed && r->count < BATCH && headers == r->headers && payload <= r->size && get32(ip + tcp + 4) == r->next
        && r->length + payload <= LARGEST && a[1] == ip[1]
        && !memcmp(a + 12, ip + 12, 8 + 4)                                   /* outer addresses and ports */
        && !memcmp(a + IP + UDP, ip + IP + UDP, VXLAN + ETHERNET + 2)        /* VXLAN, Ethernet, version and TOS */
        && !memcmp(a + inner + 6, ip + inner + 6, 4)                         /* fragment bits, TTL, protocol */
        && !memcmp(a + inner + 12, ip + inner + 12, 8 + 4)                   /* addresses and ports */
        && !memcmp(a + tcp + 8, ip + tcp + 8, 5)                             /* acknowledgment, length of header */
        && !memcmp(a + tcp + 14, ip + tcp + 14, 2)                           /* window */
        && !memcmp(a + tcp + 20, ip + tcp + 20, headers - tcp - 20);         /* options */
}

/* Takes an opened packet, which must stay where it is until the run is delivered. */
static void collect(struct opener *o, uint8_t *ip, size_t length, int tap)
{
    struct run *r = &o->run;
    int joinable = o->t.vnet && is_joinable(ip, length);
    size_t inner = IP + INNER_IP, tcp = inner + IP;
    if (r->count && joinable && follows(r, ip, length)) {
        size_t payload = length - r->headers;
        r->vectors[++r->count] = (struct iovec){ ip + r->headers, payload };
        r->length += payload;
        r->next += (uint32_t)payload;
        r->closed = payload < r->size || ip[tcp + 13] & PSH;
        r->first[tcp + 13] |= ip[tcp + 13] & PSH;
        return;
    }
    deliver(o, tap);
    r->count = 1;
    r->vectors[1] = (struct iovec){ ip, length };
    r->first = ip;
    r->length = length;
    r->closed = !joinable || ip[tcp + 13] & PSH;
    if (!joinable)
        return deliver(o, tap);
    r->tcp = tcp;
    r->headers = tcp + (ip[tcp + 12] >> 4) * 4;
    r->size = length - r->headers;
    r->next = get32(ip + tcp + 4) + (uint32_t)r->size;
}

/* Opens what comes until `wake` is readable. 0, or an errno if the socket is gone. */
int esp_opener_run(struct opener *o, int tap, int raw, int wake)
{
    struct pollfd ready[] = { { raw, POLLIN, 0 }, { wake, POLLIN, 0 } };
    for (;;) {
        int n = recvmmsg(raw, o->messages, BATCH, MSG_DONTWAIT, NULL);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return errno;
        for (int i = 0; i < n; i++) {
            size_t length = o->messages[i].msg_len;
            uint8_t *ip = open_ip(o, o->vectors[i].iov_base, &length);
            if (ip)
                collect(o, ip, length, tap);
        }
        deliver(o, tap);
        if (poll(ready, 2, -1) > 0 && ready[1].revents)
            return 0;
    }
}

/* For tests: one packet. Octets of what was inside, 0 if it was dropped, -1 if it is too long. */
ptrdiff_t esp_opener_packet(struct opener *o, const uint8_t *packet, size_t length, uint8_t *out)
{
    uint8_t *at = o->vectors[0].iov_base;
    if (length > LARGEST)
        return -1;
    memcpy(at, packet, length);
    uint8_t *ip = open_ip(o, at, &length);
    if (!ip)
        return 0;
    memcpy(out, ip, length);
    return (ptrdiff_t)length;
}
