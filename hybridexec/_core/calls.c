/* The plain case of a declared call: one that is sure to block, in a step that nothing keeps, and that nobody listens to.
 *
 * These are callbacks of sys.monitoring (PEP 669).  The text is detector/calls.py, and Reactions.call and over
 * (reactions/reactions.py): whatever is not plain is left to it, before anything has changed.
 */
#include "core.h"

/* What this needs of the Python code beside it (calls_know). */
static PyObject *current, *sites, *entries; /* protocol/lwp.current, calls.sites, the catalogue's */
static PyObject *call_type, *declared, *own_region;
static PyObject *never, *sure, *blocked, *running; /* Verdict, LwpState */
static PyObject *kind_blocked, *kind_unblocked;    /* UpcallKind */
static PyObject *wait_code, *enter_code;           /* of threading.Condition: their callers matter */
static PyObject *slow_call, *slow_return, *failed, *reserve;
static PyObject *in_poll;        /* protocol/lwp.IN_POLL */
static int frames;               /* reserve() sees to so many */
static PyObject *judge_of_sleep; /* catalogue.sleep_blocks, which is sure of so many seconds */
static double least_sleep;
static PyObject *looked_for[3]; /* modules that greenlets.py and stack.py look for */

static PyObject *is_owned_name, *binds_name, *calls_back_name, *will_block_name, *name_name, *count_name, *offset_name;
static PyObject *is_plain_name, *tally_name, *threshold_name, *replenish_name, *spare_name;
static PyObject *mode_name, *handoff, *hold_again_name, *over_name, *interrupt_name, *slow_name;
static PyObject *sampler_name, *refused_name;
static PyObject *raised_is; /* ("raised",) */

/* ---------------------------------------------------------------- what they have in common */

/* The LWP of the calling thread; NULL if it is none, or without a step, or this package's own code runs. */
static LwpFields *lwp_with_step(void)
{
    PyObject *ident = current == NULL ? NULL : PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    PyObject *lwp = ident == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(current, ident));
    Py_XDECREF(ident);
    if (lwp == NULL || !PyObject_TypeCheck(lwp, lwp_fields_type)) {
        PyErr_Clear();
        Py_XDECREF(lwp);
        return NULL;
    }
    LwpFields *fields = (LwpFields *)lwp;
    if (fields->handle != NULL && fields->handle != Py_None && fields->region == Py_None && fields->carrying != NULL &&
        PyObject_TypeCheck(fields->carrying, record_fields_type) && watch_of(fields) != NULL)
        return fields;
    Py_DECREF(lwp);
    return NULL;
}

/* An exception goes up into the step, which must not run without the loop. */
static void hold_again(LwpFields *lwp)
{
    PyObject *raised = PyErr_GetRaisedException();
    drop(PyObject_CallMethodOneArg(lwp->carrying, hold_again_name, (PyObject *)lwp));
    raise_again(raised);
}

/* A callback has failed: failing.py says what becomes of it. */
static PyObject *fail(void)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *result = PyObject_CallOneArg(failed, raised);
    Py_DECREF(raised);
    return result;
}

static int hands_off(PyObject *reactions)
{
    PyObject *mode = PyObject_GetAttr(reactions, mode_name);
    int is = mode == NULL ? -1 : PyObject_RichCompareBool(mode, handoff, Py_EQ);
    Py_XDECREF(mode);
    return is;
}

/* ---------------------------------------------------------------- a call begins */

/* What is known of the site; NULL, maybe with an exception, if nothing is. */
static PyObject *site_at(PyObject *code, PyObject *offset)
{
    PyObject *identity = PyLong_FromVoidPtr(code);
    PyObject *key = identity == NULL ? NULL : PyTuple_Pack(2, identity, offset);
    PyObject *site = key == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(sites, key));
    Py_XDECREF(key);
    Py_XDECREF(identity);
    return site;
}

static PyObject *entry_of(PyObject *callable)
{
    PyObject *identity = PyLong_FromVoidPtr(callable);
    PyObject *entry = identity == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(entries, identity));
    Py_XDECREF(identity);
    return entry;
}

/* What the catalogue says of a call; NULL, maybe with an exception, if that is for Python to say. */
static PyObject *verdict_of(PyObject *site, PyObject *entry, PyObject *argument)
{
    if (is_attribute(entry, binds_name, Py_None) <= 0 || is_attribute(entry, calls_back_name, Py_False) <= 0)
        return NULL;
    PyObject *judge = PyObject_GetAttr(entry, will_block_name), *count = NULL, *verdict = NULL;
    if (judge == judge_of_sleep && PyFloat_CheckExact(argument) && PyFloat_AS_DOUBLE(argument) >= least_sleep)
        verdict = Py_NewRef(sure);
    else if (judge != NULL && (count = PyObject_GetAttr(site, count_name)) != NULL)
        verdict = PyObject_Vectorcall(judge, (PyObject *[]){argument, count}, 2, NULL);
    Py_XDECREF(count);
    Py_XDECREF(judge);
    return verdict;
}

/* Whether the mutex is the calling thread's: a finalizer, or a signal handler, in the middle of the protocol. */
static int is_inside(LwpFields *lwp)
{
    PyObject *mutex = ((RecordFields *)lwp->carrying)->mutex;
    if (mutex == NULL)
        return 1;
    return is_mutex(mutex) ? mutex_is_owned(mutex) : truth(PyObject_CallMethodNoArgs(mutex, is_owned_name));
}

/* Whether a module is imported with which it takes a look at the stack to tell what keeps a step. */
static int needs_stack(void)
{
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    int is = 0;
    for (size_t i = 0; is == 0 && i < sizeof looked_for / sizeof *looked_for; i++)
        is = PyDict_Contains(modules, looked_for[i]);
    return is;
}

/* As Reactions.leaves_plainly. */
static int leaves_plainly(PyObject *reactions, LwpFields *lwp)
{
    if (!((RecordFields *)lwp->carrying)->leaves_plainly || lwp->handle == in_poll)
        return 0;
    PyObject *sampler = PyObject_GetAttr(reactions, sampler_name);
    int is = sampler == NULL ? -1 : is_attribute(sampler, refused_name, Py_None);
    Py_XDECREF(sampler);
    return is;
}

/* Whether the step can leave without a word; -1 with an exception. */
static int is_plain(PyObject *reactions, LwpFields *lwp)
{
    if (lwp->state != running)
        return 0;
    int is = is_inside(lwp);
    if (is != 0)
        return is < 0 ? -1 : 0;
    if ((is = needs_stack()) != 0)
        return is < 0 ? -1 : truth(PyObject_CallMethodOneArg(reactions, is_plain_name, (PyObject *)lwp));
    return leaves_plainly(reactions, lwp);
}

/* Whether the frames are left that the way back needs.  No function tells how many are; the field has been the same since
 * 3.12. */
static bool has_room(void)
{
    return PyThreadState_Get()->py_recursion_remaining > frames;
}

static int replenish(RecordFields *record)
{
    PyObject *spares = PyObject_GetAttr((PyObject *)record, spare_name);
    long wanted = spares == NULL ? -1 : PyLong_AsLong(spares);
    Py_XDECREF(spares);
    if (PyErr_Occurred() != NULL)
        return -1;
    Py_ssize_t parked = PyObject_Size(record->parked), polling = PyObject_Size(record->pollers);
    if (parked < 0 || polling < 0)
        return -1;
    if (parked + polling >= wanted)
        return 0;
    return drop(PyObject_CallMethodNoArgs((PyObject *)record, replenish_name));
}

static int count_upcall(PyObject *reactions, PyObject *kind, double lasted)
{
    PyObject *tally = PyObject_GetAttr(reactions, tally_name);
    int done = tally == NULL || !is_tally(tally) ? -1 : tally_count(tally, kind);
    if (done == 0 && lasted >= 0)
        tally_add(tally, lasted);
    Py_XDECREF(tally);
    if (done < 0 && PyErr_Occurred() == NULL)
        PyErr_SetString(PyExc_TypeError, "Reactions.tally is to be a Tally");
    return done;
}

/* As Reactions._leave: the call is LWP.watch.call by now. */
static int leave(PyObject *reactions, LwpFields *lwp, CallFields *call)
{
    if (!has_room() && drop(PyObject_CallNoArgs(reserve)) < 0)
        return -1;
    call->is_plain = call->reported = true;
    if (count_upcall(reactions, kind_blocked, -1.0) < 0)
        return -1;
    int left = moves_leave(lwp, blocked);
    return left <= 0 ? left : replenish((RecordFields *)lwp->carrying);
}

/* As Call(site, name, argument, DECLARED); with what it is in. */
static CallFields *call_new(PyObject *code, PyObject *site, PyObject *name, PyObject *argument, PyObject *outer)
{
    CallFields *call = (CallFields *)((PyTypeObject *)call_type)->tp_alloc((PyTypeObject *)call_type, 0);
    if (call == NULL)
        return NULL;
    call->site = Py_NewRef(site);
    call->code = Py_NewRef(code);
    call->name = Py_NewRef(name);
    call->argument = Py_NewRef(argument);
    call->detection = Py_NewRef(declared);
    call->outer = Py_NewRef(outer);
    call->began = now();
    return call;
}

/* As Reactions.call. */
static int begin(PyObject *reactions, LwpFields *lwp, PyObject *code, PyObject *site, PyObject *entry,
                 PyObject *argument)
{
    WatchFields *watch = watch_of(lwp);
    PyObject *name = PyObject_GetAttr(entry, name_name), *outer = Py_NewRef(watch->call);
    CallFields *call = name == NULL ? NULL : call_new(code, site, name, argument, outer);
    Py_XDECREF(name);
    int done = -1;
    if (call != NULL) {
        Py_SETREF(watch->call, Py_NewRef(call));
        done = leave(reactions, lwp, call);
        if (done < 0) {
            PyObject *raised = PyErr_GetRaisedException();
            Py_XSETREF(watch->call, Py_NewRef(outer));
            raise_again(raised);
            hold_again(lwp);
        } else if (lwp->interrupt != Py_None) { /* it is not made */
            PyObject *over = PyObject_GetAttr(reactions, over_name), *result = NULL;
            if (over != NULL)
                result = PyObject_Vectorcall(over, (PyObject *[]){(PyObject *)lwp, (PyObject *)call, Py_False}, 2,
                                             raised_is);
            Py_XDECREF(over);
            done = drop(result);
        }
    }
    Py_DECREF(outer);
    Py_XDECREF(call);
    return done;
}

/* Whether it was a plain call, which has begun; -1 with an exception. */
static int begin_if_plain(LwpFields *lwp, PyObject *code, PyObject *offset, PyObject *callable, PyObject *argument)
{
    if (code == wait_code || code == enter_code)
        return 0;
    int is = -1;
    PyObject *site = site_at(code, offset), *entry = site == NULL ? NULL : entry_of(callable);
    PyObject *verdict = entry == NULL ? NULL : verdict_of(site, entry, argument);
    if (verdict == NULL) {
        if (PyErr_Occurred() == NULL || PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_Clear(); /* it comes again */
            is = 0;
        }
    } else if (verdict == never)
        is = 1;
    else if (verdict != sure)
        is = 0;
    else {
        PyObject *reactions = Py_NewRef(watch_of(lwp)->reactions);
        is = is_plain(reactions, lwp);
        if (is > 0 && begin(reactions, lwp, code, site, entry, argument) < 0)
            is = -1;
        Py_DECREF(reactions);
    }
    Py_XDECREF(verdict);
    Py_XDECREF(entry);
    Py_XDECREF(site);
    return is;
}

/* CALL: a call is about to begin. */
static PyObject *on_call(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    LwpFields *lwp = count == 4 ? lwp_with_step() : NULL;
    if (lwp == NULL)
        return PyObject_Vectorcall(slow_call, args, (size_t)count, NULL);
    lwp->callbacks++;
    PyObject *result;
    int begun = begin_if_plain(lwp, args[0], args[1], args[2], args[3]);
    if (begun == 0)
        result = PyObject_Vectorcall(slow_call, args, (size_t)count, NULL);
    else
        result = begun > 0 ? Py_NewRef(Py_None) : fail();
    lwp->callbacks--;
    Py_DECREF(lwp);
    return result;
}

/* ---------------------------------------------------------------- a call is over */

/* Whether a call is one that has begun here, and is the one that is over; -1 with an exception. */
static int is_over_here(LwpFields *lwp, PyObject *object, PyObject *code, PyObject *offset)
{
    WatchFields *watch = watch_of(lwp);
    CallFields *call = (CallFields *)object;
    if (!Py_IS_TYPE(object, (PyTypeObject *)call_type) || !call->is_plain || call->code != code ||
        watch->trap != Py_None || call->site == NULL || call->outer == NULL)
        return 0;
    int moves = hands_off(watch->reactions); /* a run in another mode may follow */
    if (moves <= 0)
        return moves;
    PyObject *where = PyObject_GetAttr(call->site, offset_name);
    int is = where == NULL ? -1 : PyObject_RichCompareBool(where, offset, Py_EQ);
    Py_XDECREF(where);
    return is;
}

static double number_of(PyObject *object, PyObject *name)
{
    PyObject *number = PyObject_GetAttr(object, name);
    double value = number == NULL ? -1.0 : PyFloat_AsDouble(number);
    Py_XDECREF(number);
    return value;
}

/* As Reactions.resume; with the region that no call in it is the step's. */
static int resume(PyObject *reactions, LwpFields *lwp, CallFields *call)
{
    double threshold = number_of(reactions, threshold_name);
    double lasted = now() - call->began; /* what follows is waiting for its turn */
    if (PyErr_Occurred() != NULL || count_upcall(reactions, kind_unblocked, lasted) < 0)
        return -1;
    if (moves_rejoin(lwp) < 0)
        return -1;
    return PyObject_SetAttr(call->site, slow_name, lasted >= threshold ? Py_True : Py_False);
}

/* As Reactions.over. */
static int end(LwpFields *lwp, CallFields *call)
{
    WatchFields *watch = watch_of(lwp);
    PyObject *reactions = Py_NewRef(watch->reactions);
    Py_SETREF(watch->call, Py_NewRef(call->outer)); /* the caller has a reference to the call */
    Py_XSETREF(lwp->region, Py_NewRef(own_region));
    int result = resume(reactions, lwp, call);
    if (result < 0)
        hold_again(lwp);
    Py_XSETREF(lwp->region, Py_NewRef(Py_None));
    if (result == 0 && lwp->interrupt != Py_None)
        result = drop(PyObject_CallMethodOneArg(reactions, interrupt_name, (PyObject *)lwp));
    Py_DECREF(reactions);
    return result;
}

/* C_RETURN: a C call is over. */
static PyObject *on_return(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    LwpFields *lwp = count == 4 ? lwp_with_step() : NULL;
    if (lwp == NULL)
        return PyObject_Vectorcall(slow_return, args, (size_t)count, NULL);
    lwp->callbacks++;
    PyObject *call = Py_NewRef(watch_of(lwp)->call), *result = NULL;
    int over = call == Py_None ? 1 : is_over_here(lwp, call, args[0], args[1]);
    if (over == 0)
        result = PyObject_Vectorcall(slow_return, args, (size_t)count, NULL);
    else if (over < 0 || (call != Py_None && end(lwp, (CallFields *)call) < 0))
        result = fail();
    else
        result = Py_NewRef(Py_None);
    Py_DECREF(call);
    lwp->callbacks--;
    Py_DECREF(lwp);
    return result;
}

/* ---------------------------------------------------------------- for Python */

/* calls_know(objects): a dictionary of what the names above mean. */
static PyObject *calls_know(PyObject *Py_UNUSED(module), PyObject *known)
{
    const struct {
        PyObject **place;
        const char *name;
    } needed[] = {
        {&current, "current"},
        {&sites, "sites"},
        {&entries, "entries"},
        {&call_type, "call_type"},
        {&declared, "declared"},
        {&own_region, "own_region"},
        {&never, "never"},
        {&sure, "sure"},
        {&blocked, "blocked"},
        {&running, "running"},
        {&kind_blocked, "kind_blocked"},
        {&kind_unblocked, "kind_unblocked"},
        {&wait_code, "wait_code"},
        {&enter_code, "enter_code"},
        {&slow_call, "on_call"},
        {&slow_return, "on_return"},
        {&failed, "failed"},
        {&reserve, "reserve"},
        {&in_poll, "in_poll"},
        {&judge_of_sleep, "judge_of_sleep"},
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        PyObject *value = PyMapping_GetItemString(known, needed[i].name);
        if (value == NULL)
            return NULL;
        Py_XSETREF(*needed[i].place, value);
    }
    PyObject *number = PyMapping_GetItemString(known, "frames");
    PyObject *seconds = PyMapping_GetItemString(known, "least_sleep");
    frames = number == NULL ? -1 : (int)PyLong_AsLong(number);
    least_sleep = seconds == NULL ? -1.0 : PyFloat_AsDouble(seconds);
    Py_XDECREF(seconds);
    Py_XDECREF(number);
    if (PyErr_Occurred() != NULL)
        return NULL;
    tally_know(kind_blocked, kind_unblocked);
    if (!PyDict_Check(current) || !PyDict_Check(sites) || !PyDict_Check(entries) || !PyType_Check(call_type) ||
        !PyType_IsSubtype((PyTypeObject *)call_type, call_fields_type))
        return PyErr_Format(PyExc_TypeError, "current, sites and entries are dictionaries, call_type is one of calls");
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"calls_know", calls_know, METH_O, "Make objects of the Python code known."},
    {"on_call", (PyCFunction)(void (*)(void))on_call, METH_FASTCALL, "CALL: a call is about to begin."},
    {"on_return", (PyCFunction)(void (*)(void))on_return, METH_FASTCALL, "C_RETURN: a C call is over."},
    {NULL, NULL, 0, NULL},
};

int calls_exec(PyObject *module)
{
    static const Name names[] = {
        {&is_owned_name, "_is_owned"},
        {&binds_name, "binds"},
        {&calls_back_name, "calls_back"},
        {&will_block_name, "will_block"},
        {&name_name, "name"},
        {&count_name, "count"},
        {&offset_name, "offset"},
        {&is_plain_name, "leaves_plainly"},
        {&tally_name, "tally"},
        {&threshold_name, "threshold"},
        {&replenish_name, "replenish"},
        {&spare_name, "spare_lwps"},
        {&mode_name, "mode"},
        {&handoff, "handoff"},
        {&hold_again_name, "hold_again"},
        {&over_name, "over"},
        {&interrupt_name, "interrupt"},
        {&slow_name, "slow"},
        {&sampler_name, "sampler"},
        {&refused_name, "refused"},
        {&looked_for[0], "greenlet"},
        {&looked_for[1], "bdb"},
        {&looked_for[2], "pydevd"},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (raised_is = Py_BuildValue("(s)", "raised")) == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
