/* A PKCS#11 module in front of another one, which lets a test have its way with what the daemon gets to see.
 *
 * Compiled for each token with
 *   -DMODULE="..."      the module behind it
 *   -DVARIABLE="..."    an environment variable that names the module's settings, and its value -DVALUE="..."
 *   -DPARAMETERS="..."  or the string that NSS wants in CK_C_INITIALIZE_ARGS
 *   -DCONTROL="..."     a file: what stands in it happens while it is there
 *                         absent      the token is not there
 *                         forget      the module has forgotten that it was initialized, until it is initialized again
 *                         hang        signing does not return
 *                         hang-login  logging in does not return
 *                         close N     before each Nth signature, the session is closed
 *                         fail-login N     as forget; a login that fails returns N
 *                         stumble-login N  as forget; logging in returns N
 *                         fail N      signing returns N (hexadecimal)
 *                         fail-decrypt N  decrypting returns N wherever it would fail
 *   -DLOGINS="..."      a file that gets one octet for each login
 *   -DSIGN_MS="..."     how many milliseconds each signature takes longer, without work for this machine's processors
 *   -DSESSIONS="..."    a file that gets a + for each session that is opened, and a - for each that is closed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
typedef rv (*any)();

/* CK_FUNCTION_LIST: a version, then 68 functions in the order of the standard. */
struct functions {
    unsigned char major, minor;
    any f[68];
};

enum { INITIALIZE = 0, FINALIZE = 1, GET_FUNCTIONS = 3, GET_SLOTS = 4, GET_TOKEN = 6, OPEN = 12, CLOSE = 13, SESSION_INFO = 15,
       LOGIN = 18, FIND_INIT = 26, DECRYPT_INIT = 33, DECRYPT = 34, SIGN_INIT = 42, SIGN = 43, GENERATE_PAIR = 59 };

enum { OK = 0, DEVICE_REMOVED = 0x32, TOKEN_NOT_PRESENT = 0xe0, NOT_INITIALIZED = 0x190 };

static struct functions *behind, gate;
static atomic_int forgotten;
static atomic_uint signatures;

static int told(char *word, unsigned long *number) {
    char text[64] = "";
    FILE *file = fopen(CONTROL, "r");
    if (!file) return 0;
    size_t octets = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[octets] = 0;
    word[0] = 0;
    *number = 0;
    return sscanf(text, "%31s %lx", word, number) >= 1;
}

static int is(const char *wanted) {
    char word[32];
    unsigned long number;
    return told(word, &number) && strcmp(word, wanted) == 0;
}

static void wait_while(const char *wanted) {
    while (is(wanted)) usleep(2000);
}

static rv away(void) {
    if (!forgotten && (is("forget") || is("fail-login") || is("stumble-login"))) forgotten = 1;
    if (forgotten == 1) return NOT_INITIALIZED;
    return is("absent") ? DEVICE_REMOVED : OK;
}

static rv initialize(void *arguments) {
    struct { void *functions[4]; unsigned long flags; void *parameters; } own = { .flags = 2 };
    (void)arguments;
#ifdef VARIABLE
    setenv(VARIABLE, VALUE, 1);
#endif
#ifdef PARAMETERS
    own.parameters = PARAMETERS;
#endif
    if (forgotten == 1) forgotten = 2; /* once */
    return behind->f[INITIALIZE](&own);
}

static rv finalize(void *reserved) { return behind->f[FINALIZE](reserved); }

static rv get_slots(unsigned char present, unsigned long *slots, unsigned long *count) {
    rv gone = away();
    if (gone == NOT_INITIALIZED) return gone;
    if (gone) { *count = 0; return OK; }
    return behind->f[GET_SLOTS](present, slots, count);
}

#define GUARDED(name, index, parameters, arguments, gone_code) \
    static rv name parameters { rv gone = away(); if (gone == NOT_INITIALIZED) return gone; \
        return gone ? gone_code : behind->f[index] arguments; }

GUARDED(get_token, GET_TOKEN, (unsigned long slot, void *info), (slot, info), TOKEN_NOT_PRESENT)
GUARDED(session_info, SESSION_INFO, (unsigned long s, void *info), (s, info), DEVICE_REMOVED)
GUARDED(find_init, FIND_INIT, (unsigned long s, void *t, unsigned long n), (s, t, n), DEVICE_REMOVED)
GUARDED(decrypt_init, DECRYPT_INIT, (unsigned long s, void *m, unsigned long k), (s, m, k), DEVICE_REMOVED)
GUARDED(generate_pair, GENERATE_PAIR, (unsigned long s, void *m, void *a, unsigned long an, void *b, unsigned long bn, unsigned long *p, unsigned long *q), (s, m, a, an, b, bn, p, q), DEVICE_REMOVED)

static void note(char what) {
    FILE *file = fopen(SESSIONS, "a");
    if (file) { fputc(what, file); fclose(file); }
}

static rv open_session(unsigned long slot, unsigned long flags, void *a, void *n, unsigned long *session) {
    rv gone = away();
    if (gone) return gone == NOT_INITIALIZED ? gone : TOKEN_NOT_PRESENT;
    rv result = behind->f[OPEN](slot, flags, a, n, session);
    if (result == OK) note('+');
    return result;
}

static rv close_session(unsigned long session) {
    rv result = behind->f[CLOSE](session);
    if (result == OK) note('-');
    return result;
}

static rv login(unsigned long session, unsigned long user, void *pin, unsigned long octets) {
    FILE *file = fopen(LOGINS, "a");
    if (file) { fputc('.', file); fclose(file); }
    wait_while("hang-login");
    char word[32];
    unsigned long number;
    rv gone = away();
    if (gone) return gone;
    int other = told(word, &number);
    if (other && strcmp(word, "stumble-login") == 0) return number;
    rv result = behind->f[LOGIN](session, user, pin, octets);
    return result && other && strcmp(word, "fail-login") == 0 ? number : result;
}

static rv sign_init(unsigned long session, void *mechanism, unsigned long key) {
    char word[32];
    unsigned long number;
    wait_while("hang");
    rv gone = away();
    if (gone) return gone;
    if (told(word, &number)) {
        if (strcmp(word, "fail") == 0) return number;
        if (strcmp(word, "close") == 0 && number && ++signatures % number == 0) behind->f[CLOSE](session);
    }
    return behind->f[SIGN_INIT](session, mechanism, key);
}

#ifdef SIGN_MS
static rv sign(unsigned long session, void *octets, unsigned long count, void *signature, unsigned long *room) {
    rv result = behind->f[SIGN](session, octets, count, signature, room);
    if (signature) usleep(1000 * atoi(SIGN_MS)); /* without a buffer it is asked for the length only */
    return result;
}
#endif

static rv decrypt(unsigned long session, void *sealed, unsigned long octets, void *opened, unsigned long *room) {
    char word[32];
    unsigned long number;
    rv result = behind->f[DECRYPT](session, sealed, octets, opened, room);
    return result && told(word, &number) && strcmp(word, "fail-decrypt") == 0 ? number : result;
}

rv C_GetFunctionList(struct functions **list) {
    if (!behind) {
        void *library = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        if (!library) { fprintf(stderr, "%s\n", dlerror()); return 5; }
        any get = (any)dlsym(library, "C_GetFunctionList");
        if (!get || get(&behind)) return 5;
        gate = *behind;
        gate.f[INITIALIZE] = initialize;
        gate.f[FINALIZE] = finalize;
        gate.f[GET_FUNCTIONS] = (any)C_GetFunctionList;
        gate.f[GET_SLOTS] = get_slots;
        gate.f[GET_TOKEN] = get_token;
        gate.f[OPEN] = open_session;
        gate.f[CLOSE] = close_session;
        gate.f[SESSION_INFO] = session_info;
        gate.f[LOGIN] = login;
        gate.f[FIND_INIT] = find_init;
        gate.f[DECRYPT_INIT] = decrypt_init;
        gate.f[DECRYPT] = decrypt;
        gate.f[SIGN_INIT] = sign_init;
#ifdef SIGN_MS
        gate.f[SIGN] = sign;
#endif
        gate.f[GENERATE_PAIR] = generate_pair;
    }
    *list = &gate;
    return OK;
}
