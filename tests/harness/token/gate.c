/* A PKCS#11 module in front of another one, which lets a test have its way with what the daemon gets to see.
 *
 * Compiled for each token with
 *   -DMODULE="..."      the module behind it
 *   -DVARIABLE="..."    an environment variable that names the module's settings, and its value -DVALUE="..."
 *   -DPARAMETERS="..."  or the string that NSS wants in CK_C_INITIALIZE_ARGS
 *   -DCONTROL="..."     a file: what stands in it happens while it is there
 *                         absent      the token is not there, and its sessions are closed
 *                         forget      the module has forgotten that it was initialized, until it is initialized again
 *                         hang        signing does not return
 *                         hang-login  logging in does not return
 *                         hang-generate   making a key does not return, until this is over: then it is made
 *                         lose-generate N the next N keys are made, but the answer is CKR_DEVICE_ERROR
 *                         set N       keys are made with the attribute N set, though they were to be without it
 *                         close N     before each Nth signature, the session is closed
 *                         close-next N    before each of the next N signatures, the session is closed
 *                         sessions N  it gives N sessions
 *                         sessions-said N it says so, and has no word of its own for one that is too many
 *                         final-try   it says that one more wrong PIN locks it
 *                         keypad      PINs come from a keypad, where somebody always mistypes them
 *                         fail-login N     as forget; a login that fails returns N
 *                         stumble-login N  as forget; logging in returns N
 *                         fail N      signing returns N (hexadecimal)
 *                         fail-decrypt N  decrypting returns N wherever it would fail
 *   -DLOGINS="..."      a file that gets one octet for each login
 *   -DSIGN_MS="..."     how many milliseconds each signature takes longer, without work for this machine's processors
 *   -DNOTES="..."       a file that gets one octet for each session that is opened (+) or closed (-), void handle that is
 *                       used (?) or closed (x), signature that fails as it was told to (!), and key that is made (g)
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

/* What CK_TOKEN_INFO has behind its names, and the flags that are of use here. */
struct token_info { unsigned char names[96]; unsigned long flags, sessions_max; };
struct attribute { unsigned long type; void *value; unsigned long octets; };
enum { KEYPAD = 0x100, FINAL_TRY = 0x20000 };

enum { INITIALIZE = 0, FINALIZE = 1, GET_FUNCTIONS = 3, GET_SLOTS = 4, GET_TOKEN = 6, OPEN = 12, CLOSE = 13, CLOSE_ALL = 14, SESSION_INFO = 15,
       LOGIN = 18, FIND_INIT = 26, DECRYPT_INIT = 33, DECRYPT = 34, SIGN_INIT = 42, SIGN = 43, GENERATE_PAIR = 59 };

enum { OK = 0, GENERAL_ERROR = 5, DEVICE_ERROR = 0x30, PIN_INCORRECT = 0xa0, SESSION_COUNT = 0xb1, HANDLE_INVALID = 0xb3, DEVICE_REMOVED = 0x32, TOKEN_NOT_PRESENT = 0xe0, NOT_INITIALIZED = 0x190 };

static struct functions *behind, gate;
static atomic_int forgotten;
static atomic_uint signatures, closed, lost;
static atomic_int open_now;
static unsigned long slot_seen;

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

static void note(char what) {
    FILE *file = fopen(NOTES, "a");
    if (file) { fputc(what, file); fclose(file); }
    open_now += (what == '+') - (what == '-');
}

static void close_all(void) {
    if (behind->f[CLOSE_ALL](slot_seen)) return;
    for (int n = open_now; n > 0; n--) note('-');
}

static rv away(void) {
    if (!forgotten && (is("forget") || is("fail-login") || is("stumble-login"))) forgotten = 1;
    if (forgotten == 1) return NOT_INITIALIZED;
    if (!is("absent")) return OK;
    if (open_now) close_all();
    return DEVICE_REMOVED;
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

static rv finalize(void *reserved) {
    rv result = behind->f[FINALIZE](reserved);
    if (result == OK) for (int n = open_now; n > 0; n--) note('-');
    return result;
}

static rv get_slots(unsigned char present, unsigned long *slots, unsigned long *count) {
    rv gone = away();
    if (gone == NOT_INITIALIZED) return gone;
    if (gone) { *count = 0; return OK; }
    return behind->f[GET_SLOTS](present, slots, count);
}

#define GUARDED(name, index, parameters, arguments, gone_code) \
    static rv name parameters { rv gone = away(); if (gone == NOT_INITIALIZED) return gone; \
        return gone ? gone_code : behind->f[index] arguments; }

static rv get_token(unsigned long slot, struct token_info *info) {
    char word[32];
    unsigned long number;
    rv gone = away();
    if (gone) return gone == NOT_INITIALIZED ? gone : TOKEN_NOT_PRESENT;
    rv result = behind->f[GET_TOKEN](slot, info);
    if (result || !told(word, &number)) return result;
    if (strcmp(word, "sessions-said") == 0) info->sessions_max = number;
    if (strcmp(word, "final-try") == 0) info->flags |= FINAL_TRY;
    if (strcmp(word, "keypad") == 0) info->flags |= KEYPAD;
    return result;
}

GUARDED(session_info, SESSION_INFO, (unsigned long s, void *info), (s, info), DEVICE_REMOVED)
GUARDED(find_init, FIND_INIT, (unsigned long s, void *t, unsigned long n), (s, t, n), DEVICE_REMOVED)
GUARDED(decrypt_init, DECRYPT_INIT, (unsigned long s, void *m, unsigned long k), (s, m, k), DEVICE_REMOVED)

static rv generate_pair(unsigned long session, void *m, void *a, unsigned long an, struct attribute *b, unsigned long bn, unsigned long *p, unsigned long *q) {
    static unsigned char yes = 1;
    struct attribute own[32];
    char word[32];
    unsigned long number;
    wait_while("hang-generate");
    rv gone = away();
    if (gone) return gone;
    int other = told(word, &number);
    if (other && strcmp(word, "set") == 0 && bn <= 32) {
        memcpy(own, b, bn * sizeof *b);
        for (unsigned long n = 0; n < bn; n++) if (own[n].type == number) own[n].value = &yes;
        b = own;
    }
    rv result = behind->f[GENERATE_PAIR](session, m, a, an, b, bn, p, q);
    if (result) return result;
    note('g');
    return other && strcmp(word, "lose-generate") == 0 && lost++ < number ? DEVICE_ERROR : OK;
}

static rv open_session(unsigned long slot, unsigned long flags, void *a, void *n, unsigned long *session) {
    rv gone = away();
    if (gone) return gone == NOT_INITIALIZED ? gone : TOKEN_NOT_PRESENT;
    char word[32];
    unsigned long number;
    if (told(word, &number) && strncmp(word, "sessions", 8) == 0 && open_now >= (int)number)
        return strcmp(word, "sessions") == 0 ? SESSION_COUNT : GENERAL_ERROR;
    slot_seen = slot;
    rv result = behind->f[OPEN](slot, flags, a, n, session);
    if (result == OK) note('+');
    return result;
}

static rv close_session(unsigned long session) {
    rv result = behind->f[CLOSE](session);
    note(result == OK ? '-' : 'x');
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
    if (other && strcmp(word, "keypad") == 0) return PIN_INCORRECT;
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
        if (strcmp(word, "fail") == 0) { note('!'); return number; }
        int now = (strcmp(word, "close") == 0 && number && ++signatures % number == 0)
            || (strcmp(word, "close-next") == 0 && closed++ < number);
        if (now && behind->f[CLOSE](session) == OK) { note('-'); return behind->f[SIGN_INIT](session, mechanism, key); }
    }
    rv result = behind->f[SIGN_INIT](session, mechanism, key);
    if (result == HANDLE_INVALID) note('?');
    return result;
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
